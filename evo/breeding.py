"""Breeding: which operator, parents and exemplars a slot draws, and how the new prompt is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.evo.lineup import Lineup
from fittest.evo.pareto import pareto_ranks
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth, Failure, Form, Message, Proposal, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.evo.spending import Ledger, charged_to

if TYPE_CHECKING:
    import numpy as np
    from deap import base

    from fittest.evo.feeder import Feeder
    from fittest.evo.protocols import Operator
    from fittest.evo.shares import Shares

Choose = Callable[[int, "np.random.Generator"], "list[Prompt]"]
"""Draws so many different parents."""

BestAndWorst = tuple[str, str]
"""The texts of the best and the worst answer of a prompt."""

ALIASES = {"cross": "mate"}
"""Maps names in the operator mix to DEAP's names; every other operator is registered under its own name."""


@dataclass(frozen=True)
class Stock:
    """Holds what is bred from, in an order that does not depend on when each prompt came.

    Attributes:
        parents: the population.
        survivors: the prompts that serve as exemplars.
        rank_failed: orders the others best first; it is called only when survivors are too few, since it costs a
            Pareto sort.
        exemplars: those that serve as exemplars instead of all survivors, as long as there are enough of them.
        choose: draws parents from the population; without it, each of them is as likely as another.
        nearly: returns the prompts that nearly survived; it is called only for an operator that mends them. A stock
            that does not know them has all operators breed from the same parents.
    """

    parents: Sequence[Prompt]
    survivors: Sequence[Prompt]
    rank_failed: Callable[[], Iterable[Prompt]] = list
    exemplars: Sequence[Prompt] = ()
    choose: Choose | None = None
    nearly: Callable[[], Sequence[Prompt]] = tuple

    @cached_property
    def failed(self) -> Iterable[Prompt]:
        """Holds the prompts that did not survive, best first."""
        return self.rank_failed()

    @classmethod
    def freeze(cls, parents: Iterable[Prompt], scored: Sequence[Prompt], eliminated: Sequence[Prompt] = ()) -> Stock:
        """Returns a stock in which everything is ordered by what it is, never by when it came.

        Args:
            parents: the population.
            scored: every prompt that has had a valid fitness so far, survivors among them.
            eliminated: the prompts that lost a race, of which bounds alone are known; they come after all that were
                sampled fully.
        """
        return cls(
            parents=sorted(parents, key=_identity),
            survivors=sorted((prompt for prompt in scored if prompt.breeds), key=_identity),
            rank_failed=partial(best_first, tuple(scored), tuple(eliminated)),
        )

    def draw_parents(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draws parents without replacement.

        When there are too few, all of them are taken, then other survivors, then the best of those that failed; fewer
        than `count` are returned when even these do not suffice.
        """
        if len(self.parents) < count:
            found = dict.fromkeys([*self.parents, *self.survivors])
            for prompt in self.failed if len(found) < count else ():
                found[prompt] = None
                if len(found) == count:
                    break
            return list(islice(found, count))
        if self.choose is not None:
            return self.choose(count, rng)
        return [self.parents[i] for i in rng.choice(len(self.parents), size=count, replace=False)]

    def draw_nearly(self, count: int, rng: np.random.Generator) -> list[Prompt]:
        """Draws from the prompts that nearly survived, each as likely as another; parents if there are too few."""
        nearly = self.nearly()
        if len(nearly) < count:
            return self.draw_parents(count, rng)
        return [nearly[place] for place in rng.choice(len(nearly), size=count, replace=False).tolist()]

    def draw_exemplars(
        self, shots: int, rng: np.random.Generator, *, without: Sequence[Prompt]
    ) -> tuple[list[Prompt], list[Prompt]]:
        """Draws exemplars without replacement, none of which is among the parents.

        Args:
            shots: the number of exemplars.
            rng: draws them.
            without: the parents.

        Returns:
            Exemplars, and, when all survivors are too few, the best of those that failed to top them up.
        """
        taken = {prompt.id for prompt in without}
        for shown in (self.exemplars, self.survivors):
            out = _places_of(taken, without, shown)
            free = len(shown) - len(out)
            if free >= shots:
                break
        count = min(shots, free)
        drawn = [shown[beside(i, out)] for i in rng.choice(free, size=count, replace=False).tolist()]
        if count == shots:
            return drawn, []
        spare = (prompt for prompt in self.failed if prompt.id not in taken)
        return drawn, list(islice(spare, shots - count))


@dataclass(frozen=True)
class Draw:
    """Holds what one slot has drawn: everything about an offspring but its text."""

    operator: str
    generation: int
    slot: int
    parents: Sequence[Prompt]
    exemplars: Sequence[Prompt]
    topped_up: Sequence[Prompt]
    rng: np.random.Generator

    def birth(self, template: str | None) -> Birth:
        """Returns the birth record; `template` names the wording of the proposal, if there was one."""
        shown = [*self.exemplars, *self.topped_up]
        family = [*self.parents, *shown]
        return Birth(
            operator=self.operator,
            generation=self.generation,
            slot=self.slot,
            template=template,
            parents=_ids(self.parents),
            exemplars=_ids(shown),
            topped_up=_ids(self.topped_up),
            source=_union(prompt.birth.source for prompt in family),
            licence=_union(prompt.birth.licence for prompt in family),
        )


class Breeder:
    """Draws operator, parents and exemplars for a slot, and writes its offspring.

    A draw depends on the seed, the generation, the slot, the stock and the shares alone, so slots can be drawn in any
    order.

    Args:
        toolbox: holds the operators; `parse`, which reads one candidate out of a reply; and `answers`, which returns
            the best and the worst answer of a prompt, for operators that mend.
        feeder: sends proposals to the engine.
        seeds: the run's seed tree.
        shares: how likely each operator is to be drawn.
        shots: the number of exemplars that an operator is shown.
        sampling: how proposals are drawn.
        form: the form in which the engine is asked for proposals.
    """

    def __init__(
        self,
        *,
        toolbox: base.Toolbox,
        feeder: Feeder,
        seeds: SeedTree,
        shares: Shares,
        shots: int,
        sampling: Sampling,
        form: Form = "completion",
    ) -> None:
        self._toolbox = toolbox
        self._feeder = feeder
        self._seeds = seeds
        self.shares = shares
        self._shots = shots
        self._sampling = sampling
        self._form: Form = form

    def draw(self, generation: int, stock: Stock, slot: int) -> Draw:
        """Draws what a slot breeds from.

        Args:
            generation: the generation of the offspring.
            stock: what is bred from.
            slot: the place of the offspring in its generation.

        Raises:
            FittestError: fewer prompts are scored than the operator takes.
        """
        rng = self._seeds.generator(Stream.SLOT, generation, slot)
        name = str(rng.choice(self.shares.names, p=self.shares.probabilities))
        operator = self._operator(name)
        wanted = parents_taken(operator)
        parents = (stock.draw_nearly if _mends(operator) else stock.draw_parents)(wanted, rng)
        if len(parents) < wanted:
            raise FittestError(f"operator {name} takes {wanted} parents, but only {len(parents)} prompts are scored")
        exemplars, topped_up = stock.draw_exemplars(self._shots, rng, without=parents)
        return Draw(name, generation, slot, parents, exemplars, topped_up, rng)

    async def write(self, draw: Draw) -> Prompt:
        """Writes the offspring of a draw, charged with its own birth.

        Args:
            draw: what it is written from.

        Returns:
            The new prompt, or one that is turned away at the gate `parse` and holds what the model wrote instead.

        Raises:
            FittestError: the operator, which may be a user's, raised an error or made neither text nor a proposal.
        """
        ledger = Ledger()
        with charged_to(ledger):
            prompt = await self._offspring(draw)
        prompt.spent = ledger
        return prompt

    async def _offspring(self, draw: Draw) -> Prompt:
        proposal = await self._proposed(draw)
        if isinstance(proposal, str):
            return Prompt(proposal, draw.birth(template=None))
        return await self._written(proposal, draw.birth(proposal.template))

    def _operator(self, name: str) -> Operator:
        operator: Operator = getattr(self._toolbox, ALIASES.get(name, name))
        return operator

    async def _proposed(self, draw: Draw) -> Proposal | str:
        """Calls an operator, which may be a user's, and checks what it made."""
        name, shown = draw.operator, [*draw.exemplars, *draw.topped_up]
        operator, known = self._operator(name), {}
        if _mends(operator):
            known["answers"] = [await self._toolbox.answers(parent) for parent in draw.parents]
        try:
            made = operator(*draw.parents, exemplars=shown, rng=draw.rng, **known)
            proposal = await made if inspect.isawaitable(made) else made
        except Exception as error:
            raise FittestError(f"operator {name} raised {type(error).__name__}: {error}") from error
        if not isinstance(proposal, (Proposal, str)):
            raise FittestError(
                f"operator {name} returned {proposal!r}; it must return a Proposal or the prompt's text"
            )
        if isinstance(proposal, Proposal) and not proposal.messages and proposal.prompt is None:
            raise FittestError(f"operator {name} returned a Proposal with neither messages nor a prompt")
        return proposal

    async def _written(self, proposal: Proposal, birth: Birth) -> Prompt:
        seed = self._seeds.engine_seed(Stream.PROPOSAL, birth.generation, birth.slot, 0)
        request = proposal_request(proposal, self._form, sampling=self._sampling, seed=seed)
        (reply,) = await self._feeder.ask_all([request])
        if isinstance(reply, Failure):
            unusable = Prompt("", birth)
            unusable.turn_away("parse", f"no reply: {reply.reason}")
            return unusable
        # a parse of the user's own need not know of thoughts unless an operator asks for them
        thoughts = {"thinks": True} if proposal.thinks else {}
        candidate = self._toolbox.parse(reply.text, reply.finish_reason, **thoughts)
        if isinstance(candidate, str):
            return Prompt(candidate, birth)
        unusable = Prompt(reply.text, birth)
        unusable.turn_away("parse", candidate.reason)
        return unusable


def proposal_request(proposal: Proposal, form: Form, *, sampling: Sampling, seed: int) -> Request:
    """Returns the request for a proposal in a form; a proposal that has one form alone is asked for in that form.

    A plain chat has no stop texts if the proposal begins its answer in other forms. Those texts end what was begun,
    and a model that thinks before it answers may write them while it thinks.

    Args:
        proposal: what an operator made.
        form: the form that the engine serves.
        sampling: how it is drawn, but for the stop texts.
        seed: the seed of the reply.
    """
    messages, prompt, stop = proposal.messages, proposal.prompt, proposal.stop
    if messages and (form != "completion" or prompt is None):
        prompt = None
        if form == "prefill" and proposal.prefill:
            messages += (Message("assistant", proposal.prefill),)
        elif proposal.prompt is not None or proposal.prefill:
            stop = ()
    else:
        messages = ()
    return Request("proposal", replace(sampling, stop=stop), seed, messages=messages, prompt=prompt)


def parents_taken(operator: Operator) -> int:
    """Returns the number of parents that an operator takes, which is that of its parameters before `exemplars`.

    Args:
        operator: takes its parents, then `exemplars` and `rng`.

    Raises:
        FittestError: it has no parameter `exemplars` or no parameter `rng`.
    """
    names = list(inspect.signature(operator).parameters)
    if "exemplars" not in names or "rng" not in names:
        raise FittestError(f"an operator takes its parents, then exemplars and rng; found ({', '.join(names)})")
    return names.index("exemplars")


def _mends(operator: Operator) -> bool:
    """Tells whether an operator is given prompts that nearly survived; a toolbox wraps what is registered in it."""
    return bool(getattr(getattr(operator, "func", operator), "mends", False))


def _places_of(taken: Collection[str], prompts: Sequence[Prompt], shown: Sequence[Prompt]) -> list[int]:
    """Returns the positions of some prompts, of which the ids are given as well, among those shown, ascending."""
    if isinstance(shown, Lineup):
        found = {shown.place(prompt) for prompt in prompts}
        return sorted(place for place in found if place is not None)
    return [place for place, prompt in enumerate(shown) if prompt.id in taken]


def beside(number: int, out: Sequence[int]) -> int:
    """Returns the position of an item, of which the number is known among those that are not left out.

    Args:
        number: the item's number among the others.
        out: the positions of those that are left out, ascending.
    """
    for place in out:
        number += number >= place
    return number


def best_first(scored: Sequence[Prompt], eliminated: Sequence[Prompt]) -> list[Prompt]:
    """Orders the prompts that failed by Pareto rank, and after them those that lost a race by their bounds.

    Args:
        scored: every prompt that has had a valid fitness; survivors among them are left out.
        eliminated: the prompts that lost a race.
    """
    failed = [prompt for prompt in scored if not prompt.breeds and prompt.fitness.valid]
    ranks = pareto_ranks(failed)
    ranked = sorted(zip(ranks.tolist(), failed, strict=True), key=lambda pair: (pair[0], pair[1].id))
    return [*(prompt for _, prompt in ranked), *sorted(eliminated, key=_bounds)]


def _identity(prompt: Prompt) -> str:
    return prompt.id


def _bounds(prompt: Prompt) -> tuple[float, float, str]:
    """Gives a sort key by which the highest bound of the worst reward comes first, then the smallest gap."""
    found = prompt.elimination
    return (-found.m1, found.m3, prompt.id) if found else (0.0, 0.0, prompt.id)


def _ids(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    return tuple(prompt.id for prompt in prompts)


def _union(values: Iterable[str | None]) -> str | None:
    """Returns the sorted union of values that may themselves be unions; without any value it is None."""
    single = {part for value in values if value for part in value.split("; ")}
    return "; ".join(sorted(single)) or None
