"""Going on with another reward: what is judged anew, and what stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fittest.evo.evolution import Evolution
from fittest.evo.prompt import Prompt
from fittest.evo.records import Metrics, Response
from fittest.runs import parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import assemble, parts_of
from tests.conftest import null_tables

Facts = dict[str, tuple[object, ...]]


async def by_another_reward(prompt: Prompt) -> tuple[list[Response], Metrics | None]:
    """Rewards that have nothing to do with those before."""
    assert prompt.metrics is not None
    drawn = float(np.random.default_rng(int(prompt.id, 16)).random())
    responses = [replace(response, reward=drawn) for response in prompt.responses]
    return responses, replace(prompt.metrics, m1=drawn - 2.0)


def facts(evolution: Evolution) -> Facts:
    """What a new reward could change of every prompt so far."""
    return {
        prompt.id: (tuple(prompt.responses), prompt.metrics, prompt.fitness.values, prompt.survived)
        for generation in evolution.state.finished
        for prompt in generation.candidates
    }


def rejudged(*, survivors: bool, then: Callable[[Evolution, Facts], None]) -> Evolution:
    """A run that goes on with another reward before its second generation of offspring; `then` looks at it then."""
    config = parse_config(null_tables())

    async def before(evolution: Evolution, number: int) -> None:
        if number == 2:
            known = facts(evolution)
            await evolution.rejudge(by_another_reward, survivors=survivors)
            then(evolution, known)

    evolution = assemble(config, parts_of(config), journal=SqliteJournal(":memory:"), before_generation=before)
    asyncio.run(evolution.run())
    return evolution


def test_what_is_kept_is_kept_of_all_prompts_and_the_cuts_move() -> None:
    def unchanged(evolution: Evolution, before: Facts) -> None:
        assert facts(evolution) == before

    evolution = rejudged(survivors=False, then=unchanged)
    cuts = [generation.thresholds.min_reward for generation in evolution.state.finished]
    assert cuts[0] == cuts[1] != cuts[2]
    assert cuts[2] is not None
    assert -2.0 <= cuts[2] <= -1.0
    assert evolution.logbook[2]["pass_rate_pool"] == pytest.approx(evolution.logbook[0]["pass_rate_pool"], abs=0.2)


def test_who_fails_the_new_cuts_stays_a_survivor_that_nothing_is_bred_from() -> None:
    def outdated(evolution: Evolution, before: Facts) -> None:
        state = evolution.state
        assert {prompt.id for prompt in state.survivors} == {id_ for id_, known in before.items() if known[-1]}
        assert all(prompt.survived for prompt in state.survivors)
        gone = {prompt for prompt in state.survivors if prompt.outdated}
        assert 0 < len(gone) < len(state.survivors)
        assert gone.isdisjoint(state.population)

    evolution = rejudged(survivors=True, then=outdated)
    state = evolution.state
    shown = {id_ for prompt in state.finished[2].candidates for id_ in prompt.birth.parents}
    assert shown.isdisjoint(prompt.id for prompt in state.survivors if prompt.outdated)
    assert sum(record["passed"] for record in evolution.logbook) == len(state.survivors)


def test_the_fresh_draws_of_a_survivor_are_judged_anew_as_well() -> None:
    """A judge who dislikes one fresh draw and nothing else makes its prompt a parent no more."""
    config = parse_config(null_tables(selection={"confirm": 1, "quantile": 0.1}))
    disliked: list[Prompt] = []

    async def judge(prompt: Prompt) -> tuple[list[Response], Metrics | None]:
        assert prompt.metrics is not None
        fresh = {response.sample for response in prompt.responses} == {4, 5, 6, 7}
        worse = fresh and prompt == disliked[0]
        return prompt.responses, replace(prompt.metrics, m1=prompt.metrics.m1 - 9.0 * worse)

    async def before(evolution: Evolution, number: int) -> None:
        if number == 2:
            survivors = list(evolution.state.survivors)
            disliked.append(survivors[0])
            await evolution.rejudge(judge, survivors=True)
            assert [prompt for prompt in survivors if prompt.outdated] == disliked

    evolution = assemble(config, parts_of(config), journal=SqliteJournal(":memory:"), before_generation=before)
    asyncio.run(evolution.run())
    assert disliked[0].survived
    assert disliked[0] not in evolution.state.population
    assert evolution.state.retested is not None
    assert disliked[0] not in [each.prompt for each in evolution.state.retested]
