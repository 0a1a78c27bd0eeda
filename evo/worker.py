"""Runs rewards and embeddings in a thread, because they would block the event loop that feeds the engine."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Worker:
    """Calls one function at a time in its thread.

    Coroutine functions and `quick` calls run on the loop itself: handing work to a thread and back costs 0.4 ms of
    CPU, which is more than a hash or a table look-up.

    Args:
        name: the name of the thread, which debuggers show.
    """

    def __init__(self, name: str) -> None:
        # one thread: a tokenizer that two threads share raises "Already borrowed", and more threads would take the
        # engine's cores
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[..., Any], *arguments: object, quick: bool = False) -> Any:
        """Calls the function and returns its result, which is awaited if it is awaitable.

        Args:
            function: the function, sync or async.
            *arguments: its positional arguments.
            quick: whether the call costs less than handing it to the thread.
        """
        if quick or inspect.iscoroutinefunction(function):
            result = function(*arguments)
        else:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        return await result if inspect.isawaitable(result) else result
