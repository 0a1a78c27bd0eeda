"""Provides an engine without a model: seeded pseudo-text, to test speed, faults and determinism of a run."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from typing import Self

from fittest.evo.backends.family import family_of
from fittest.evo.records import Completion, Request
from fittest.evo.world import World

WORDS = """
about after again answer because before better between book bread bridge build change child city clear cloud coffee
colour common compare country course daily describe detail different dinner early energy engine evening every
example explain family farm fast field find fire first flower follow forest friend garden give glass good green
ground group grow happy health heart heavy help history home horse house human important island journey keep kitchen
language large late learn letter light list little long machine make market meaning measure method middle minute
modern money month morning mountain music nature never night north number ocean office often open order paper parent
park people person place plan plant point possible practice problem process program question quick quiet rain reason
recipe record river road room round school science season second sentence short simple slow small social soil solve
sound south space spring stone story street strong student study summer table teach team test their theory thing
think time today together tool town train travel tree turn under understand useful value village visit voice walk
water weather week which while winter wonder word work world write year young
""".split()  # noqa: SIM905 - as a list it would be two hundred lines


class Null:
    """Answers with words drawn by a seed that depends on the request alone.

    Args:
        slots: requests worked on at once.
        latency: the median seconds of a reply; the times are log-normal with a heavy tail. 0 answers at once.
        world: the landscape that proposals and the lengths of answers follow; None draws them without any.
    """

    def __init__(self, *, slots: int = 16, latency: float = 0.0, world: World | None = None) -> None:
        self.slots = slots
        self.fingerprint = "null:1" if world is None else f"null:1:{world.fingerprint}"
        self._latency = latency
        self._world = world

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def sample(self, request: Request) -> Completion:
        """Answers one request; each word counts as a token.

        A proposal gets a task of one sentence, a rollout up to `max_tokens` words, a judgment a score from 0 to 10.

        Args:
            request: the request.
        """
        # one generator for each reply: random.Random is made in half the time of a NumPy generator
        digest = hashlib.sha256(f"{request.user_text}\0{request.seed}".encode()).digest()
        rng = random.Random(digest)
        if self._latency:
            await asyncio.sleep(self._latency * math.exp(rng.gauss(0.0, 0.6)))
        if request.stage in ("judge", "audit"):
            return Completion(f"Score: {rng.randint(0, 10)}", "stop", request.user_text.count(" ") + 1, 2)
        limit = request.sampling.max_tokens
        if self._world is not None and request.stage == "proposal":
            words = self._world.offspring(family_of(request), WORDS, rng)
            count, words = len(words), words[:limit]
        else:
            count = self._count(request, rng)
            words = rng.choices(WORDS, k=min(max(count, 1), limit))
        text = " ".join(words).capitalize() + "." if words else ""
        return Completion(
            text=f"<task>{text}</task>" if text and _asks_for_tags(request) else text,
            finish_reason="length" if count > limit else "stop",
            prompt_tokens=request.user_text.count(" ") + 1,
            completion_tokens=len(words),
        )

    def _count(self, request: Request, rng: random.Random) -> int:
        """Draws how many words a reply has."""
        if self._world is not None:
            return self._world.answer_words(request.user_text, rng)
        # lengths of answers are log-normal too, so that some are cut at max_tokens and m2 has a spread
        return rng.randint(8, 24) if request.stage == "proposal" else round(20 * math.exp(rng.gauss(0.0, 0.8)))


def _asks_for_tags(request: Request) -> bool:
    """Tells whether a proposal has to write its tags itself, after its thoughts."""
    begun = request.prompt if request.prompt is not None else request.messages[-1].content
    return request.stage == "proposal" and begun.endswith(("Thoughts:", "in the tags."))
