"""Takes paths from the command line; one that no file can have is refused before a command begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fittest.evo.errors import FittestError
from fittest.runs.reading.files import check_path


class _PathName(click.Path):
    """A path that the system can look at; whether anything is there is for the command to say."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path; NUL, an endless name, links in a circle and closed folders are mistakes of the user."""
        if not Path(value).is_absolute():
            _check_working_folder()
        check_path(value)
        return super().convert(value, param, ctx)


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise FittestError(f"the working folder is gone or closed ({error.strerror}); go to another one") from None


PATH = _PathName(path_type=Path)
"""The type of every argument and option that names a file or folder."""
