"""The gatekeeper asks the gates about each prompt; what passes all of them goes into the archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING

from fittest.evo.archive import Archive
from fittest.evo.errors import FittestError
from fittest.evo.visible import visible
from fittest.evo.worker import Worker

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.protocols import Embedder, Gate, Journal


_PARTS = ("name", "ordered", "screens_pool", "needs_embedding", "check", "admit")
# characters of an error's text that are kept as the reason
_MOST_OF_AN_ERROR = 200


class Gatekeeper:
    """Asks gates about prompts, and keeps the archive of those that passed.

    Gates that look at one prompt alone are asked as soon as it comes. The first gate whose verdict depends on prompts
    that were accepted before is asked in the order of the prompts, and so are all gates after it: the gates stand
    cheap before costly, and a costly one shall not be asked about what a cheap one turns away.

    A gate that raises turns the prompt away, and what it raised is the reason: a run of many days must not end, and
    end again whenever it is resumed, because of one text. A `FittestError` ends it, since its user can mend that.

    Args:
        gates: in the order in which they are asked.
        embedder: embeds each prompt that gets that far, beside the engine in one worker thread.
        journal: keeps the embeddings.

    Attributes:
        archive: the prompts that passed, in the order in which they were accepted.
    """

    def __init__(self, gates: Sequence[Gate], *, embedder: Embedder, journal: Journal) -> None:
        first_ordered = next((i for i, gate in enumerate(gates) if gate.ordered), len(gates))
        self.archive = Archive(embedder.dimension)
        self._gates = gates
        self._stateless = gates[:first_ordered]
        self._in_order = gates[first_ordered:]
        self._embedder = embedder
        self._journal = journal
        self._worker = Worker("embedding")

    async def pass_through(self, prompt: Prompt, place: AbstractAsyncContextManager[None]) -> bool:
        """Decides about one prompt, and returns whether it was accepted into the archive.

        Args:
            prompt: it may have been turned away already, and takes its place all the same.
            place: waits until the prompts that come before this one are decided about, and holds up those after it.
        """
        await self._ask(prompt, self._stateless)
        async with place:
            await self._ask(prompt, self._in_order)
            if prompt.gate is not None:
                return False
            await self._embed(prompt)
            # Not before: a gate must not compare later prompts with one that another gate turned away.
            if not self._admitted(prompt):
                return False
            self.archive.add(prompt)
            return True

    def _admitted(self, prompt: Prompt) -> bool:
        for gate in self._gates:
            with _turning_away(prompt, gate):
                gate.admit(prompt)
        return prompt.gate is None

    async def _ask(self, prompt: Prompt, gates: Sequence[Gate]) -> None:
        for gate in gates:
            if prompt.gate is not None:
                return
            if prompt.birth.operator == "pool" and not gate.screens_pool:
                continue
            if gate.needs_embedding:
                await self._embed(prompt)
            with _turning_away(prompt, gate):
                reason = gate.check(prompt)
                if reason is not None:
                    prompt.turn_away(gate.name, reason)

    async def _embed(self, prompt: Prompt) -> None:
        if prompt.embedding is not None:
            return
        fingerprint = self._embedder.fingerprint
        vector = self._journal.embedding(fingerprint, prompt.text)
        if vector is None:
            (vector,) = await self._worker.call(self._embedder.embed, [prompt.text], quick=self._embedder.quick)
            self._journal.record_embedding(fingerprint, prompt.text, vector)
        prompt.embedding = vector


def complete(gate: Gate, name: str) -> Gate:
    """Returns a gate that someone else has made.

    Args:
        gate: the gate.
        name: the name of its table in the configuration.

    Raises:
        FittestError: it lacks something that a gate has.
    """
    for part in _PARTS:
        if not hasattr(gate, part):
            raise FittestError(f"gates.{name}: the gate has no {part}; fittest.evo.protocols.Gate says what one has")
    return gate


@contextmanager
def _turning_away(prompt: Prompt, gate: Gate) -> Iterator[None]:
    """Turns a prompt away with what is raised inside the block."""
    try:
        yield
    except FittestError:
        raise
    except Exception as error:
        prompt.turn_away(gate.name, visible(f"error: {type(error).__name__}: {error}"[:_MOST_OF_AN_ERROR]))
