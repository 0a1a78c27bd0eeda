"""The errors that reach a user: each carries one clear line, and no traceback is shown for it."""


class FittestError(Exception):
    """Something the user can mend; the message names the file, row or key, what was found, what would be right."""


class RequestFailedError(Exception):
    """One request that can never succeed (too long, refused); the reason is journalled as the final answer to it."""


class EngineLostError(FittestError):
    """The engine no longer answers; what is in the journal stays, and the run can be resumed."""


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that was raised first in a group of tasks, however deep it lies."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
