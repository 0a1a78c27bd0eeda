"""Types of keys that name files: a relative path means a file beside the configuration's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo


def _file(given: str, info: ValidationInfo) -> str:
    path = _beside(given, info)
    return given if path is None else str(path)


def _file_if_there(given: str, info: ValidationInfo) -> str:
    path = _beside(given, info)
    return str(path) if path is not None and path.exists() else given


def _beside(given: str, info: ValidationInfo) -> Path | None:
    """Returns the absolute path; None for what is no path, or if the configuration is not from a file."""
    folder = (info.context or {}).get("folder")
    if folder is None or given.startswith(("hf:", "builtin:")):
        return None
    try:
        return Path(folder, Path(given).expanduser()).resolve()
    except RuntimeError as error:  # ~ of a user who does not exist
        raise ValueError(str(error)) from None


FileName = Annotated[str, AfterValidator(_file)]
"""A file, or one of the names that begin with "hf:" or "builtin:"."""

NameOrFile = Annotated[str, AfterValidator(_file_if_there)]
"""A file or folder if there is one of that name, and otherwise a name."""
