"""Remembers the hashes of files, so that weights are checked at every use and read for that at the first alone."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from pathlib import Path

from fittest.evo.pretrained.fingerprints import file_digest


def verified_digest(file: Path, memory: Path) -> str:
    """Returns the SHA-256 of a file in hex; it is read only if its size, time or inode are not those remembered.

    Args:
        file: the file.
        memory: where hashes are remembered; a folder that cannot be written to remembers nothing.
    """
    stamp = _stamp(file)
    known = _remembered(memory).get(str(file))
    if isinstance(known, list) and known[:-1] == stamp and isinstance(known[-1], str):
        return known[-1]
    digest = file_digest(file)
    if _stamp(file) == stamp:  # else it was written to while it was read
        _remember(memory, {str(file): [*stamp, digest]})
    return digest


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _remember(memory: Path, more: dict[str, object]) -> None:
    temporary = memory.with_name(f".{memory.name}-{secrets.token_hex(8)}")
    # of two processes that write at once one loses its entry, and hashes the file once more
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(_remembered(memory) | more, indent=1) + "\n", encoding="utf-8")
        temporary.replace(memory)


def _remembered(memory: Path) -> dict[str, object]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
