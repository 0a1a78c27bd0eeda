"""Simulates a server with a prefix cache, in this process and without HTTP, for virtual time.

The cache works as vLLM's: blocks of 16 tokens, each known by all text up to its end; those that were used longest ago
are given up first.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from simulated_engine import ANSWER_TOKENS, MEDIAN_SECONDS, SCORE_TOKENS, SIGMA, WORTH, Asked, Served, chat

from fittest.evo.backends.null import WORDS
from fittest.evo.records import Completion, Request

BLOCK_TOKENS = 16
TOKEN_CHARACTERS = 4
READ_PER_SECOND = 4000.0
"""So many tokens of a prompt are read in a second, if the cache does not hold them."""


class PrefixCache:
    """Holds the blocks of what was read last.

    The blocks of running requests cannot be given up, those of their answers included. Of the others, the block that
    was used longest ago goes first, and the end of a text before its beginning.

    Args:
        blocks: how many blocks there are.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = self._free = blocks
        self._used: Counter[int] = Counter()
        self._unused: OrderedDict[int, None] = OrderedDict()
        self._nameless = 0

    def hold(self, text: str, answer_tokens: int) -> tuple[list[int], int] | None:
        """Returns the blocks that a request holds from now on, and the tokens of its prompt that were known.

        Args:
            text: the prompt.
            answer_tokens: the tokens of the answer; their blocks are never found again.

        Returns:
            None if there are not enough blocks at the moment.

        Raises:
            ValueError: there are not enough blocks at any time.
        """
        names = _names(text)
        # the last token is read in any case, because the first token of the answer follows from it
        known = 0
        while known < (tokens_of(text) - 1) // BLOCK_TOKENS and self._knows(names[known]):
            known += 1
        needed = -(-(tokens_of(text) + answer_tokens) // BLOCK_TOKENS)
        if needed > self._blocks:
            raise ValueError(f"a request needs {needed} blocks, and the cache has {self._blocks}")
        missing = needed - known
        revived = sum(name in self._unused for name in names[:known])
        if missing > self._free + len(self._unused) - revived:
            return None
        for name in names[:known]:
            self._unused.pop(name, None)
        for _ in range(missing - self._free):
            self._unused.popitem(last=False)
        self._free = max(0, self._free - missing)
        held = names[:known] + [self._nameless_block() if self._knows(name) else name for name in names[known:]]
        held += [self._nameless_block() for _ in range(missing + known - len(held))]
        self._used.update(held)
        return held, known * BLOCK_TOKENS

    def let_go(self, held: Sequence[int]) -> None:
        """Ends a request; its blocks stay known until their place is needed."""
        for name in reversed(held):
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]
                self._unused[name] = None

    def _knows(self, name: int) -> bool:
        return name in self._used or name in self._unused

    def _nameless_block(self) -> int:
        self._nameless += 1
        return hash(("nameless", self._nameless))


def _names(text: str) -> list[int]:
    """Returns the names of the full blocks of a text."""
    size, name, names = BLOCK_TOKENS * TOKEN_CHARACTERS, 0, []
    for start in range(0, len(text) - size + 1, size):
        name = hash((name, text[start : start + size]))
        names.append(name)
    return names


def tokens_of(text: str) -> int:
    """Returns the number of tokens that a text is counted as."""
    return -(-len(text) // TOKEN_CHARACTERS)


class Read(NamedTuple):
    """Holds one request that was served, and how much of its prompt was known."""

    served: Served
    prompt_tokens: int
    cached_tokens: int


class CachingEngine:
    """Works on a number of requests at a time: first it reads what its cache does not hold, and then it writes.

    The length of an answer is log-normal, and each token takes the same time; the median answer takes 0.4 s. Text,
    length and worth depend on prompt and seed alone, so every server gives the same answers in any order of asking.

    Args:
        slots: how many requests it works on at once.
        blocks: how many blocks its cache has.
    """

    def __init__(self, slots: int, blocks: int) -> None:
        self.read: list[Read] = []
        self._slots = asyncio.Semaphore(slots)
        self._cache = PrefixCache(blocks)
        self._ended = asyncio.Condition()

    async def sample(self, request: Request) -> Completion:
        """Answers one request."""
        text = request.subject
        asked = chat(text) if request.prompt is None else Asked(text, "proposal")
        answer, tokens = _written(asked, request.seed)
        clock = asyncio.get_running_loop().time
        async with self._slots:
            began = clock()
            async with self._ended:
                while (found := self._cache.hold(text, tokens)) is None:
                    await self._ended.wait()
            held, cached = found
            reading = (tokens_of(text) - cached) / READ_PER_SECOND
            await asyncio.sleep(reading + tokens * MEDIAN_SECONDS / ANSWER_TOKENS)
            async with self._ended:
                self._cache.let_go(held)
                self._ended.notify_all()
        self.read.append(Read(Served(began, clock(), asked.stage, tokens), tokens_of(text), cached))
        return Completion(answer, "stop", tokens_of(text), tokens, cached)


def _written(asked: Asked, seed: int) -> tuple[str, int]:
    """Returns an answer and its tokens."""
    rng = random.Random(hashlib.sha256(f"{seed}:{asked.text}".encode()).digest())
    if asked.stage == "judge":
        found = WORTH.search(asked.text)
        return f"Score: {found[1] if found else 0}", SCORE_TOKENS * rng.randint(1, 8)
    if asked.stage == "proposal":
        words = rng.choices(WORDS, k=rng.randint(8, 24))
        return f"{' '.join(words).capitalize()}.", len(words)
    tokens = math.ceil(ANSWER_TOKENS * math.exp(rng.gauss(0.0, SIGMA)))
    usual_worth = random.Random(hashlib.sha256(asked.text.encode()).digest()).gauss(7.0, 1.5)
    worth = min(max(round(rng.gauss(usual_worth, 1.0)), 0), 10)
    return f"An answer of worth {worth}: {' '.join(rng.choices(WORDS, k=tokens))}.", tokens
