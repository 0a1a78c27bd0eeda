"""Parents by merit and exemplars of the population in whole runs, in both modes: selection shows in what is bred."""

from __future__ import annotations

import asyncio
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deap import base

from fittest.evo.errors import FittestError
from fittest.evo.evolution import Evolution
from fittest.evo.prompt import Prompt
from fittest.evo.state import Generation
from fittest.runs import parse_config, run
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import assemble, parts_of
from tests.conftest import null_tables
from tests.runs.test_steady_state import results

MODES = ["generational", "steady-state"]
OF_POPULATION = {"offspring": 24, "shots": 2, "exemplars": "population"}


def tables(mode: str = "generational", parents: str = "tournament", **sections: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, dict[str, Any]] = {
        "run": {"seed": 3, "generations": 3, "population": 12, "mode": mode},
        "engine": {"kind": "null", "slots": 8, "sampling": {"n": 6, "max_tokens": 60}},
        "selection": {"quantile": 0.2, "parents": parents},
        "operators": OF_POPULATION,
    }
    return null_tables(**{name: {**usual.get(name, {}), **sections.get(name, {})} for name in {*usual, *sections}})


def candidates(folder: Path) -> pl.DataFrame:
    files = sorted((folder / "generations").glob("*.parquet"))
    return pl.concat(
        [pl.read_parquet(file).with_columns(generation=pl.lit(number)) for number, file in enumerate(files)]
    )


@pytest.mark.parametrize("parents", ["tournament", "lexicase"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_repeats_from_its_journal_at_any_speed(mode: str, parents: str, tmp_path: Path) -> None:
    run(parse_config(tables(mode, parents, engine={"latency": 0.002})), tmp_path / "run")
    replay = {"kind": "replay", "path": str(tmp_path / "run" / "journal.sqlite"), "slots": 2}
    run(parse_config(tables(mode, parents, engine=replay)), tmp_path / "again")
    assert results(tmp_path / "again") == results(tmp_path / "run")


@pytest.mark.parametrize("mode", MODES)
def test_exemplars_come_from_the_trimmed_population(mode: str, tmp_path: Path) -> None:
    """Without trimming, more prompts serve as exemplars than a population of 6 can hold."""
    small = {"run": {"seed": 3, "generations": 3, "population": 6, "mode": mode}}
    seen: dict[str, int] = {}
    for exemplars in ("population", "survivors"):
        run(parse_config(tables(mode, **small, operators={"exemplars": exemplars})), tmp_path / exemplars)
        last = candidates(tmp_path / exemplars).filter(pl.col("generation") == 3)
        seen[exemplars] = len({one for shown in last["exemplars"].to_list() for one in shown})
    assert seen["population"] < seen["survivors"]


def populations(mode: str, customise: Any = None) -> list[tuple[Prompt, set[str]]]:
    """Runs an evolution; returns each offspring of the last generations with the population when it was drawn."""
    config = parse_config(tables(mode))
    drawn: dict[tuple[str, ...], set[str]] = {}
    found: list[tuple[Prompt, set[str]]] = []

    def finished(evolution: Evolution, generation: Generation) -> None:
        found.extend((prompt, drawn.get(prompt.birth.parents, set())) for prompt in generation.candidates)

    def watch(toolbox: base.Toolbox) -> None:
        if customise is not None:
            customise(toolbox)
        made = toolbox.stock

        def stock(state: Any) -> Any:
            now = made(state)
            chosen = now.choose

            def choose(count: int, rng: np.random.Generator) -> list[Prompt]:
                parents = chosen(count, rng)
                drawn[tuple(parent.id for parent in parents)] = {prompt.id for prompt in state.population}
                return list(parents)

            object.__setattr__(now, "choose", choose)
            return now

        toolbox.register("stock", stock)

    evolution = assemble(
        config, parts_of(config), journal=SqliteJournal(":memory:"), customise=watch, on_generation=finished
    )
    asyncio.run(evolution.run())
    return [(prompt, population) for prompt, population in found if prompt.birth.parents]


@pytest.mark.parametrize("mode", MODES)
def test_parents_and_exemplars_are_members_of_a_bounded_population(mode: str) -> None:
    bred = populations(mode)
    assert len(bred) > 20
    for prompt, population in bred:
        assert set(prompt.birth.parents) <= population
        assert 0 < len(population) <= 12
    full = [(prompt, population) for prompt, population in bred if len(population) >= 4]
    assert full
    if mode == "generational":
        assert all(set(prompt.birth.exemplars) <= population for prompt, population in full)


def test_a_select_of_the_users_own_decides_who_is_bred_from() -> None:
    def shortest(individuals: list[Prompt], k: int) -> list[Prompt]:
        return sorted(individuals, key=lambda prompt: (len(prompt.text), prompt.id))[:3]

    bred = populations("generational", lambda toolbox: toolbox.register("select", shortest))
    assert max(len(population) for _, population in bred[-20:]) <= 12
    assert all(set(prompt.birth.parents) <= population for prompt, population in bred)
    assert any(len(population) == 3 for _, population in bred)


def test_racing_changes_nothing_of_what_is_bred_by_merit(tmp_path: Path) -> None:
    for pilot in (0.0, 0.5):
        for size in (0, 2):
            selection = {"race_round": size, "pilot": pilot}
            run(parse_config(tables(selection=selection)), tmp_path / f"{pilot} {size}")
        raced, full = (candidates(tmp_path / f"{pilot} {size}") for size in (2, 0))
        for column in ("prompt_id", "parents", "exemplars", "survived"):
            assert raced[column].equals(full[column])
        assert raced["n_drawn"].sum() < full["n_drawn"].sum()


def test_halves_are_measured_where_no_race_chose_and_only_for_merit() -> None:
    for parents in ("tournament", "uniform"):
        config = parse_config(tables(parents=parents, selection={"race_audit": 0.3}))
        evolution = assemble(config, parts_of(config), journal=SqliteJournal(":memory:"))
        state = asyncio.run(evolution.run())
        scored = [prompt for g in state.finished for prompt in g.candidates if prompt.metrics is not None]
        halved = [prompt for prompt in scored if prompt.metrics and prompt.metrics.halves]
        if parents == "uniform":
            assert not halved
            continue
        assert halved == [prompt for prompt in scored if prompt.audited or prompt.birth.generation == 0]
        assert any(prompt.audited for prompt in halved)
        for prompt in halved:
            assert prompt.metrics is not None
            assert prompt.metrics.halves is not None
            one, other = prompt.metrics.halves
            # of all responses, the worst is the worse of both halves', and the best is the better one
            assert prompt.metrics.m1 == min(one[0], other[0])
            assert prompt.metrics.chosen_reward == max(one[3], other[3])


def test_merit_shows_in_the_parents(tmp_path: Path) -> None:
    means = {}
    for parents in ("uniform", "tournament"):
        run(parse_config(tables(parents=parents, operators={"offspring": 60})), tmp_path / parents)
        table = candidates(tmp_path / parents)
        worth = dict(table.select("prompt_id", "m1").iter_rows())
        first = table.filter(pl.col("generation") == 1)
        means[parents] = np.mean([worth[parent] for some in first["parents"].to_list() for parent in some])
    assert means["tournament"] > means["uniform"]


def test_without_these_keys_a_run_is_what_it_was(tmp_path: Path) -> None:
    said = tables(parents="uniform", operators={"exemplars": "survivors"})
    run(parse_config(said), tmp_path / "said")
    del said["selection"]["parents"], said["operators"]["exemplars"]
    run(parse_config(said), tmp_path / "silent")
    assert results(tmp_path / "said") == results(tmp_path / "silent")
    kept = tomllib.loads((tmp_path / "silent" / "run.toml").read_text())
    assert (kept["selection"]["parents"], kept["operators"]["exemplars"]) == ("uniform", "survivors")


@pytest.mark.parametrize("arm", ["random-few-shot", "one-shot"])
def test_a_control_arm_is_bred_from_what_it_was(arm: str, tmp_path: Path) -> None:
    run_of = {"run": {"seed": 3, "generations": 2, "population": 12, "arm": arm}}
    run(parse_config(tables(**run_of)), tmp_path / "by merit")
    plain = tables(parents="uniform", operators={"exemplars": "survivors"}, **run_of)
    run(parse_config(plain), tmp_path / "plain")
    assert results(tmp_path / "by merit") == results(tmp_path / "plain")


def test_a_run_says_when_it_cannot_know_how_much_luck_there_is(tmp_path: Path) -> None:
    run(parse_config(tables(engine={"sampling": {"n": 2, "max_tokens": 60}})), tmp_path / "run")
    warnings = json.loads((tmp_path / "run" / "summary.json").read_text())["warnings"]
    assert any("how much luck is in m1, m2, m3 is not known" in warning for warning in warnings)


def test_an_unknown_choice_is_refused_in_words() -> None:
    with pytest.raises(FittestError, match=r"selection.parents = 'best'.*'uniform', 'tournament' or 'lexicase'"):
        parse_config(tables(parents="best"))
    with pytest.raises(FittestError, match=r"operators.exemplars = 'all'.*'survivors' or 'population'"):
        parse_config(tables(operators={"exemplars": "all"}))
