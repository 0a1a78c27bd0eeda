"""An engine that does what a test tells it, for tests of what feeds engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from fittest.evo.records import Completion, Request, Sampling


def request(number: int, stage: str = "rollout") -> Request:
    return Request(stage=stage, sampling=Sampling(max_tokens=8), seed=number, prompt=f"prompt {number}")  # type: ignore[arg-type]


class Scripted:
    """An engine that calls a function for each request and notes how many ran at once."""

    fingerprint = "scripted"

    def __init__(self, answer: Callable[[Request], Awaitable[str]], slots: int = 4) -> None:
        self.slots = slots
        self.asked: list[Request] = []
        self.running = 0
        self.most_running = 0
        self._answer = answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def sample(self, request: Request) -> Completion:
        self.asked.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            text = await self._answer(request)
        finally:
            self.running -= 1
        return Completion(text, "stop", 3, 5)


async def echo(asked: Request) -> str:
    await asyncio.sleep(0)
    return asked.user_text.upper()
