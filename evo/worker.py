"""A thread beside the event loop for rewards and embeddings, which would otherwise hold up the engine's feeding."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Worker:
    """Calls one function at a time.

    A coroutine function is awaited on the loop. So is anything called `quick`: handing work to a thread and back costs
    0.4 ms of CPU, more than a hash or a table look-up.

    Args:
        name: shown by debuggers.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def call(self, function: Callable[..., Any], *arguments: object, quick: bool = False) -> Any:
        """The function's result, awaited when it has to be."""
        if quick or inspect.iscoroutinefunction(function):
            result = function(*arguments)
        else:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        return await result if inspect.isawaitable(result) else result
