"""Defines the errors and warnings that reach a user: each is one clear line, without a traceback."""

from __future__ import annotations

from fittest.evo.hiding import without_keys
from fittest.evo.visible import visible


class FittestError(Exception):
    """Reports something the user can mend.

    The message names the file, row or key, what was found, and what would be right. It repeats what servers and files
    hold, so keys are hidden in it, and what a terminal would obey is written out.

    Args:
        message: one line.
    """

    def __init__(self, message: object) -> None:
        # a plug-in may give an exception in place of its words
        super().__init__(visible(without_keys(str(message))))


class RequestFailedError(Exception):
    """Reports that one request can never succeed, because it is too long or was refused.

    The journal keeps the reason as the final answer to the request.
    """


class EngineLostError(FittestError):
    """Reports that the engine no longer answers; the journal keeps what it has, and the run can be resumed."""


class NoSurvivorWarning(UserWarning):
    """Warns that a run ended without a survivor: it is no error, and there is nothing to train on."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the error that was raised first in a group of tasks, however deep it lies."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
