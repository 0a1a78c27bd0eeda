"""The seams of the engine: what a backend, reward, embedder, gate, policy, operator or journal must be able to do."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evo.prompt import Prompt
    from evo.records import Completion, Failure, Missing, Proposal, Request, Thresholds


class Backend(Protocol):
    """Text generation. Entered before the first request, left after the last.

    `fingerprint` identifies the model and everything about the engine that changes its replies.
    `slots` is the number of requests it works on at once.
    """

    fingerprint: str
    slots: int

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

    fingerprint: str

    def score(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> Sequence[float | Missing | None] | Awaitable[Sequence[float | Missing | None]]:
        """Rewards in the order of the pairs; None, NaN and infinities are taken for missing."""
        ...


class Embedder(Protocol):
    """Unit vectors for texts; a row depends on its own text alone, whatever stands beside it."""

    fingerprint: str
    dimension: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings, shape (len(texts), dimension), each of length one."""
        ...


class Operator(Protocol):
    """Makes a prompt from parents and exemplars: parents first, then `exemplars` and `rng`.

    The number of positional parameters before `exemplars` is the number of parents it is given. It returns a
    `Proposal` for the model, or the finished text of the new prompt; it may be async.
    """

    def __call__(
        self, *parents: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator
    ) -> Proposal | str | Awaitable[Proposal | str]:
        """Ask for one new prompt."""
        ...


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

    def thresholds(self, values: NDArray[np.float64], previous: Thresholds | None) -> Thresholds:
        """The cuts for one generation.

        Args:
            values: m1, m2, m3 of the generation's prompts that have metrics, shape (prompts, 3).
            previous: the cuts of the generation before; None for the pool.
        """
        ...


class Journal(Protocol):
    """Keeps every reply, reward and embedding the moment it is known, and gives it back to a later run."""

    def reply(self, key: str, sample: int) -> Completion | Failure | None:
        """What was answered to this request before, if anything."""
        ...

    def issue(self, requests: Sequence[tuple[str, Request]]) -> None:
        """Log requests, in one transaction, before they are sent."""
        ...

    def record(self, replies: Sequence[tuple[str, int, Completion | Failure]]) -> None:
        """Keep replies, in one transaction; they are safe when this returns."""
        ...

    def rewards(self, fingerprint: str, pairs: Sequence[str]) -> dict[str, float | Missing]:
        """The rewards known for these pair hashes."""
        ...

    def record_rewards(self, fingerprint: str, rewards: dict[str, float | Missing]) -> None:
        """Keep rewards by pair hash."""
        ...

    def embedding(self, fingerprint: str, text: str) -> NDArray[np.float32] | None:
        """The embedding known for this text, if any."""
        ...

    def record_embedding(self, fingerprint: str, text: str, vector: NDArray[np.float32]) -> None:
        """Keep an embedding."""
        ...
