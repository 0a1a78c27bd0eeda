"""Types of keys that name files: a relative path means a file beside the configuration's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from fittest.evo.errors import FittestError
from fittest.runs.reading.files import check_path


def _file(given: str, info: ValidationInfo) -> str:
    path = _beside(given, info)
    if path is None:
        return given
    _checked(path)
    return str(path)


def _file_if_there(given: str, info: ValidationInfo) -> str:
    path = _beside(given, info)
    return str(path) if path is not None and _checked(path) else given


def _beside(given: str, info: ValidationInfo) -> Path | None:
    """Returns the absolute path; None for what is no path, or if the configuration is not from a file."""
    folder = (info.context or {}).get("folder")
    if folder is None or given.startswith(("hf:", "builtin:")):
        return None
    try:
        path = Path(folder, Path(given).expanduser())
        target = path.resolve()
    except (RuntimeError, ValueError, OSError) as error:  # ~ of a user who does not exist, NUL, links in a circle
        raise ValueError(f"cannot be used as a path ({error})") from None
    # a download cache names files by their hash: only the name of the link to one tells its format
    same = path.suffix.lower() == target.suffix.lower()
    return target if same else path.parent.resolve() / path.name


def _checked(path: Path) -> bool:
    """Tells whether something is at a path.

    Args:
        path: the path.

    Raises:
        ValueError: nothing can be there.
    """
    try:
        return check_path(path) is not None
    except FittestError as error:
        raise ValueError(str(error)) from None


FileName = Annotated[str, AfterValidator(_file)]
"""A file, or one of the names that begin with "hf:" or "builtin:"."""

NameOrFile = Annotated[str, AfterValidator(_file_if_there)]
"""A file or folder if there is one of that name, and otherwise a name."""
