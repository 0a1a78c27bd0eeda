"""The seams of the engine: what a backend, reward, embedder, gate, policy, operator or journal must be able to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from fittest.evo.records import Proposal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Completion, Failure, Milestone, Missing, Request, Thresholds
    from fittest.evo.spending import Spending


Ask = Callable[[Sequence["Request"]], Awaitable[list["Completion | Failure"]]]
"""Replies in the order of the requests; `Feeder.ask_all`."""


class Backend(Protocol):
    """Text generation. Entered before the first request, left after the last."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and everything about the engine that changes its replies."""
        ...

    @property
    def slots(self) -> int:
        """Requests worked on at once."""
        ...

    async def __aenter__(self) -> Self:
        """Load the model."""

    async def __aexit__(self, *exc: object) -> None:
        """Stop what is still running and free the model."""

    async def sample(self, request: Request) -> Completion:
        """Answer one request.

        Raises:
            RequestFailedError: this request can never succeed.
            EngineLostError: the engine is gone.
        """
        ...


class Reward(Protocol):
    """One number for each (prompt, response) pair; a pure function of the pair."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and its version; rewards are kept under it."""
        ...

    @property
    def quick(self) -> bool:
        """Whether a call costs less than handing it to a thread."""
        ...

    def score(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> Sequence[float | Missing | None] | Awaitable[Sequence[float | Missing | None]]:
        """Rewards in the order of the pairs; None, NaN and infinities are taken for missing."""
        ...


@runtime_checkable
class CanBeTried(Protocol):
    """An engine somewhere else: whether it is there, and gives out what it is asked for, is known once it answers."""

    @property
    def trouble(self) -> str | None:
        """What the servers say while none of them answers; None while one does."""
        ...

    async def try_out(self) -> None:
        """Ask each server for one token.

        Raises:
            FittestError: which server gives none, and what it said.
        """
        ...


@runtime_checkable
class SamplesTogether(Protocol):
    """An engine that gives several samples of one prompt for one request, and reads the prompt once."""

    async def sample_together(self, requests: Sequence[Request]) -> Sequence[Completion | Failure]:
        """Answer requests that differ in sample and seed alone; the first one's seed counts for all.

        Tokens of the prompt are counted once, with the first sample.

        Raises:
            RequestFailedError: these requests can never succeed.
            EngineLostError: the engine is gone.
        """
        ...


@runtime_checkable
class AsksEngine(Protocol):
    """A part that asks the run's own engine, through the feeder, so that all share its slots, journal and budget."""

    def connect(self, ask: Ask) -> None:
        """Set where requests go: `Feeder.ask_all`."""
        ...


@runtime_checkable
class KeepsInJournal(Protocol):
    """A reward whose parts are worth keeping: computed here, but too dear to compute again."""

    def keep_in(self, journal: Journal) -> None:
        """Set where they are kept."""
        ...


class Embedder(Protocol):
    """Unit vectors for texts; a row depends on its own text alone, whatever stands beside it."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model; embeddings are kept under it."""
        ...

    @property
    def quick(self) -> bool:
        """Whether a call costs less than handing it to a thread."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings, shape (len(texts), dimension), each of length one."""
        ...


Operator = Callable[..., Proposal | str | Awaitable[Proposal | str]]
"""Makes a prompt: called as `operator(*parents, exemplars=…, rng=…)`.

The number of parameters before `exemplars` is the number of parents it is given. It returns a `Proposal` for the
model, or the finished text of the new prompt; it may be async. `exemplars` are prompts, `rng` is a numpy Generator.
"""


class Gate(Protocol):
    """Turns prompts away before anything is spent on them.

    `ordered`: the verdict depends on prompts accepted before, so the gate is asked in slot order.
    `screens_pool`: human prompts have to pass it too. `needs_embedding`: `prompt.embedding` must be set.
    """

    name: str
    ordered: bool
    screens_pool: bool
    needs_embedding: bool

    def check(self, prompt: Prompt) -> str | None:
        """The reason to turn the prompt away, or None."""
        ...

    def admit(self, prompt: Prompt) -> None:
        """Take note of a prompt that passed every gate."""
        ...


class ThresholdPolicy(Protocol):
    """Decides the cuts of each generation."""

    name: str

    def known(self, generation: int) -> Thresholds | None:
        """The cuts of a generation if they are known before it is sampled, which is what racing needs."""
        ...

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        """The cuts of a generation that are not known beforehand.

        Called once for each generation whose cuts are not known, in order; generation 0 is the pool, or its pilot.

        Args:
            generation: 0 for the pool.
            values: metrics of its fully sampled prompts, shape (prompts, len(METRICS)).
        """
        ...


class Journal(Protocol):
    """Keeps every reply, reward and embedding the moment it is known, and gives it back to a later run."""

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """What was answered to this request before, if anything."""
        ...

    def exchange(
        self,
        replies: Sequence[tuple[str, int, Completion | Failure]],
        requests: Sequence[tuple[str, Request]],
    ) -> None:
        """Keep replies and log requests about to be sent, in one transaction; all is safe when this returns."""
        ...

    def spent(self) -> Spending:
        """What all replies so far have cost."""
        ...

    def rewards(self, fingerprint: str, pairs: Sequence[str]) -> dict[str, float | Missing]:
        """The rewards known for these pair hashes."""
        ...

    def record_rewards(self, fingerprint: str, rewards: dict[str, float | Missing]) -> None:
        """Keep rewards by pair hash; they are safe with the next exchange."""
        ...

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """The embedding known for this text, if any."""
        ...

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keep an embedding; it is safe with the next exchange."""
        ...

    def milestones(self) -> Sequence[Milestone]:
        """The order of events, as far as it is known."""
        ...

    def record_milestone(self, position: int, milestone: Milestone) -> None:
        """Keep what happened at a position of that order; it is safe with the next exchange."""
        ...
