"""The protocols of the engine: what a backend, reward, embedder, gate, policy, operator and journal must offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from fittest.evo.records import Proposal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Completion, Failure, Form, Milestone, Missing, Request, Thresholds
    from fittest.evo.spending import Ledger


Ask = Callable[[Sequence["Request"]], Awaitable[list["Completion | Failure"]]]
"""Gives the replies in the order of the requests; `Feeder.ask_all` is one."""


class Backend(Protocol):
    """Generates text. It is entered before the first request and left after the last."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model, and everything about the engine that changes its replies."""
        ...

    @property
    def slots(self) -> int:
        """Says how many requests are worked on at once."""
        ...

    async def __aenter__(self) -> Self:
        """Loads the model."""

    async def __aexit__(self, *exc: object) -> None:
        """Stops what is still running and frees the model."""

    async def sample(self, request: Request) -> Completion:
        """Answers one request.

        Args:
            request: one sample of one prompt.

        Raises:
            RequestFailedError: this request can never succeed.
            EngineLostError: the engine is gone.
        """
        ...


class Reward(Protocol):
    """Gives one number for each response to a prompt; the number depends on these two texts alone."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and its version; rewards are kept under it."""
        ...

    @property
    def quick(self) -> bool:
        """Says whether a call costs less than handing it to a thread."""
        ...

    def score(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> Sequence[float | Missing | None] | Awaitable[Sequence[float | Missing | None]]:
        """Returns the rewards, one for each response in their order; it may be async.

        Args:
            prompts: one for each response.
            responses: in any number.

        Returns:
            Numbers; None, NaN and infinities count as missing.
        """
        ...


@runtime_checkable
class CanBeTried(Protocol):
    """Is an engine on other machines: only an answer shows that it is there and gives what it is asked for."""

    @property
    def trouble(self) -> str | None:
        """Says what is wrong while none of the servers answers; it is None while one of them does."""
        ...

    async def try_out(self, requests: Sequence[Request] = ()) -> list[str]:
        """Sends each server one short request for each role, and returns what a user should know all the same.

        A server that accepts a request and does not answer within some seconds may only be slow; that is told, and is
        no error. The same holds for a server that is out of order as long as another one works.

        Args:
            requests: an example of what the engine will be asked in each of its roles; neighbours that differ in
                sample alone are one request. Without any, it is asked for one answer.

        Raises:
            FittestError: no server gives an answer; the message names each and what it said.
        """
        ...


@runtime_checkable
class TellsOfServers(Protocol):
    """Is an engine whose servers may keep requests waiting."""

    @property
    def waits(self) -> str | None:
        """Says how many requests wait for which servers, and for how long; it is None while servers take them."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Holds what a user should know of the servers, each once."""
        ...


@runtime_checkable
class ChoosesForm(Protocol):
    """Is an engine of which only a trial shows in which form it can be asked for a proposal."""

    async def proposal_form(self, wanted: Sequence[Form]) -> tuple[Form, str]:
        """Returns the first of the wanted forms that all its servers serve, and how that was found, in words.

        Args:
            wanted: forms, the best first.

        Raises:
            FittestError: a server serves none of them; the message names it and what it said.
        """
        ...


@runtime_checkable
class SamplesTogether(Protocol):
    """Is an engine that gives several samples of one prompt for one request, and reads the prompt once."""

    async def sample_together(self, requests: Sequence[Request]) -> Sequence[Completion | Failure]:
        """Answers requests that differ in sample and seed alone; the seed of the first counts for all of them.

        The tokens of the prompt are counted once, with the first sample.

        Args:
            requests: all samples of one prompt.

        Raises:
            RequestFailedError: these requests can never succeed.
            EngineLostError: the engine is gone.
        """
        ...


@runtime_checkable
class ChoosesNext(Protocol):
    """Is an engine of several servers, each of which answers sooner what begins like something that it has read."""

    def best_next(self, waiting: Iterable[Sequence[Request]], room: float) -> Sequence[int]:
        """Returns the positions of the requests that should go now, in ascending order; there may be none.

        Args:
            waiting: the requests that wait for a slot, in their order; those that go together are one item.
            room: how many requests may go.
        """
        ...


@runtime_checkable
class AsksEngine(Protocol):
    """Is a part that asks the run's engines through the feeder, so that all share slots, journal and budget.

    The stage of a request decides which engine answers: the judge's at stage "judge", the policy at "reference".
    """

    def connect(self, ask: Ask) -> None:
        """Sets where requests go, which is `Feeder.ask_all`."""
        ...


@runtime_checkable
class KeepsInJournal(Protocol):
    """Is a reward that measures something on the way to its numbers, at such a cost that this is kept as well."""

    def keep_in(self, journal: Journal) -> None:
        """Sets the journal in which its measurements are kept."""
        ...


class Embedder(Protocol):
    """Gives unit vectors for texts; a vector depends on its own text alone, whichever others are asked for with it."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model; embeddings are kept under it."""
        ...

    @property
    def quick(self) -> bool:
        """Says whether a call costs less than handing it to a thread."""
        ...

    @property
    def dimension(self) -> int:
        """Says how long a vector is."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Returns the embeddings, shape (len(texts), dimension), each of length one."""
        ...


Operator = Callable[..., Proposal | str | Awaitable[Proposal | str]]
"""Makes a prompt; it is called as `operator(*parents, exemplars=…, rng=…)`.

The number of parameters before `exemplars` is the number of parents that it is given. It returns a `Proposal` for the
model, or the finished text of the new prompt; it may be async. `exemplars` are prompts, `rng` is a numpy Generator.

An operator with the attribute `mends = True` is given prompts that nearly survived as its parents, and the best and
the worst answer of each of them as `answers`: pairs of texts, or None of a prompt of which they are not known.
"""


class Gate(Protocol):
    """Turns prompts away before anything is spent on them.

    Attributes:
        name: it stands in the tables for the prompts that the gate turned away.
        ordered: whether the verdict depends on prompts accepted before, so that the gate is asked in slot order.
        screens_pool: whether human prompts have to pass it too.
        needs_embedding: whether `prompt.embedding` must be set when it is asked.
    """

    name: str
    ordered: bool
    screens_pool: bool
    needs_embedding: bool

    def check(self, prompt: Prompt) -> str | None:
        """Returns the reason to turn the prompt away, or None."""
        ...

    def admit(self, prompt: Prompt) -> None:
        """Takes note of a prompt that passed every gate."""
        ...


class ThresholdPolicy(Protocol):
    """Decides the cuts of each generation."""

    name: str

    def known(self, generation: int) -> Thresholds | None:
        """Returns the cuts of a generation if they are known before it is sampled, which is what racing needs."""
        ...

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """Returns the cuts of a generation that are not known beforehand.

        It is called once for each such generation, in order; generation 0 is the pool, or its pilot.

        Args:
            generation: 0 for the pool.
            values: the metrics of its fully sampled prompts, shape (prompts, len(METRICS)).
        """
        ...


@runtime_checkable
class LearnsFromSurvivors(Protocol):
    """Is a policy that makes later cuts from the survivors of earlier generations."""

    def learn(self, survivors: NDArray[np.float64], evaluated: int) -> None:
        """Takes note of a generation that is sealed; it is called once for each, in order.

        Args:
            survivors: the metrics of its survivors, shape (survivors, len(METRICS)).
            evaluated: how many prompts they were chosen from, those that lost a race among them.
        """
        ...


class Journal(Protocol):
    """Keeps every reply, measurement and embedding the moment it is known, and gives it back to a later session.

    A measurement is a number that something with a fingerprint gives for a subject, or the reason why it is missing:
    a reward, log-odds of a verdict, a loss. A subject is named by a hash of all that the number depends on besides.
    """

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """Returns what was answered to this request before, if anything."""
        ...

    def exchange(
        self,
        replies: Sequence[tuple[str, int, Completion | Failure]],
        requests: Sequence[tuple[str, Request]],
    ) -> None:
        """Keeps replies and logs requests about to be sent, in one transaction; all is safe when this returns."""
        ...

    def forget(self, failures: Sequence[tuple[str, int]]) -> None:
        """Forgets failures, by key and sample, of an engine that was lost or refused everything: they are asked again.

        A request that was answered stays answered.
        """
        ...

    def spent(self) -> Ledger:
        """Returns what all replies so far have cost, by stage."""
        ...

    def measurements(self, fingerprint: str, subjects: Sequence[str]) -> dict[str, float | Missing]:
        """Returns what is known of these subjects; those of which nothing is known are left out."""
        ...

    def forget_missing(self, fingerprint: str, subjects: Sequence[str]) -> None:
        """Forgets that the measurements of these subjects are missing, so that they are measured again."""
        ...

    def record_measurements(self, fingerprint: str, measurements: Mapping[str, float | Missing]) -> None:
        """Keeps measurements by subject; they are safe with the next exchange."""
        ...

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """Returns the embedding known for this text, if any."""
        ...

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keeps an embedding; it is safe with the next exchange."""
        ...

    def milestones(self) -> Sequence[Milestone]:
        """Returns the order of milestones, as far as it is known."""
        ...

    def record_milestone(self, position: int, milestone: Milestone) -> None:
        """Keeps what happened at a position of that order; it is safe with the next exchange."""
        ...
