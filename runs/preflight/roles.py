"""Tries out each engine in each of its roles before a run begins, and finds the form in which it writes proposals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fittest.evo.breeding import proposal_request
from fittest.evo.errors import first_error
from fittest.evo.protocols import CanBeTried, ChoosesForm
from fittest.evo.records import Form, Message, Proposal, Request, Role, Sampling

if TYPE_CHECKING:
    from fittest.evo.engines import Engines
    from fittest.runs.config import Config

_WANTED: dict[str, tuple[Form, ...]] = {
    "auto": ("completion", "prefill", "chat"),
    "chat": ("prefill", "chat"),
    "completion": ("completion",),
}
"""The forms that each value of `operators.form` allows, the best first (benchmarks/operator_yield.py)."""

FORMS: dict[Form, str] = {
    "completion": "as completions",
    "prefill": "as chats that begin the answer",
    "chat": "as chats",
}
"""Says in words how proposals are asked for."""

_ASKED = "Say hello."
_PROPOSAL = Proposal(
    "trial",
    messages=(Message("user", _ASKED),),
    prompt=f"1. <task>{_ASKED}</task>\n2. <task>",
    stop=("</task>",),
    prefill="<task>",
)
_JUDGING = Sampling(temperature=0.7, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Holds what was found before a run begins.

    Attributes:
        form: the form in which proposals are asked for.
        found: how the form was found, in words; empty where nothing was tried.
        warnings: what a user should know, although the run can begin.
    """

    form: Form
    found: str = ""
    warnings: Sequence[str] = ()

    @property
    def lines(self) -> list[str]:
        """Returns what is said before the run begins."""
        form = [f"proposals are asked for {FORMS[self.form]}: {self.found}"] if self.found else []
        return form + [f"warning: {warning}" for warning in self.warnings]


async def readiness(config: Config, engines: Engines, *rewards: object, form: Form | None = None) -> Readiness:
    """Returns the form of proposals, after each engine and reward on servers has answered in each of its roles.

    Args:
        config: the configuration.
        engines: those that it names.
        *rewards: the rewards that it names; without any, the engines alone are tried.
        form: the form that the run began with; None finds it.

    Raises:
        FittestError: a server is not there, or refuses what the run will ask of it; the message names it.
    """
    proposer = engines.of("proposer").backend
    others = [engine.backend for engine in engines.by_role.values() if engine.backend is not proposer]
    # all at once, since the search for a form may take a minute, and a server that is dead is named within seconds
    trials = [_tried(config, engines, backend, form or "chat") for backend in others]
    try:
        async with asyncio.TaskGroup() as group:
            proposing = group.create_task(_proposing(config, engines, form))
            tasks = [group.create_task(trial) for trial in [*trials, *map(_reward_tried, rewards)]]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    ready = proposing.result()
    return replace(ready, warnings=[*ready.warnings, *(warning for task in tasks for warning in task.result())])


async def _proposing(config: Config, engines: Engines, form: Form | None) -> Readiness:
    """Finds the form of proposals, unless it is known, and tries the engine that writes them in all its roles."""
    proposer, found = engines.of("proposer").backend, ""
    if form is None:
        wanted = _WANTED[config.operators.form]
        if engines.of("proposer").system:
            wanted = tuple(form for form in wanted if form != "completion")  # a raw text has no place for it
        if isinstance(proposer, ChoosesForm) and config.run.generations:
            form, found = await proposer.proposal_form(wanted)
        else:
            # engines in this process serve every form; the last one is the plainest that was asked for
            form = "completion" if "completion" in wanted else wanted[-1]
    return Readiness(form, found, await _tried(config, engines, proposer, form))


async def _tried(config: Config, engines: Engines, backend: object, form: Form) -> list[str]:
    """Tries an engine in each of its roles; the form is that of its proposals, if it writes any."""
    if not isinstance(backend, CanBeTried):
        return []
    return await backend.try_out(list(_examples(config, engines, backend, form)))


async def _reward_tried(reward: object) -> list[str]:
    return await reward.try_out() if isinstance(reward, CanBeTried) else []


def _examples(config: Config, engines: Engines, backend: object, form: Form) -> Iterator[Request]:
    """Yields one request for each role that an engine will serve, or as many samples as will be asked for together."""
    drawn = {"policy": config.engine.sampling.n, "proposer": 1, "judge": config.reward.repeats}
    if config.audit is not None:
        drawn["auditor"] = config.audit.repeats
    for role in engines.roles:
        engine = engines.of(role)
        if engine.backend is backend and (request := _example(config, role, form)) is not None:
            # a server may refuse several samples, and only a trial of them shows it before the run
            samples = min(engine.together, engine.backend.slots, drawn.get(role, 1))
            yield from (replace(engine.address(request), sample=sample) for sample in range(samples))


def _example(config: Config, role: Role, form: Form) -> Request | None:
    """Returns a small request of a role; None where the run asks nothing of it."""
    user = (Message("user", _ASKED),)
    if role == "policy":
        drawn = config.engine.sampling
        return Request("rollout", Sampling(drawn.temperature, drawn.top_p, drawn.max_tokens), 0, messages=user)
    if role == "judge":
        return Request("judge", _JUDGING, 0, messages=user) if config.reward.judgments(config.judge) else None
    if role == "auditor":
        asked_to_audit = config.audit is not None and config.audit.judgments(config.judge)
        return Request("audit", _JUDGING, 0, messages=user) if asked_to_audit else None
    if not config.run.generations:
        return None
    asked = config.operators.sampling
    sampling = Sampling(asked.temperature, asked.top_p, asked.max_tokens)
    return proposal_request(_PROPOSAL, form, sampling=sampling, seed=0)
