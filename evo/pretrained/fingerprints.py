"""Fingerprints of files and folders: what tells one model on disk from another, wherever it lies.

They stand in journals, run folders and caches, so none of the forms may change: what they identify would be taken for
something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

_ENDS_BYTES = 16 * 2**20
"""The number of bytes that `file_fingerprint` reads of a file's beginning, and of its end."""
_BLOCK_BYTES = 2**20


def file_digest(file: Path) -> str:
    """Returns the SHA-256 of a file in hex; every byte is read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Returns the SHA-256, in hex, over names and digests of a folder's own files; every byte is read."""
    return _digest_of(f"{file.name}:{file_digest(file)}\n" for file in _own_files(folder))


def listed_digest(files: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, over name, size and content of files in the given order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        digest.update(bytes.fromhex(file_digest(file)))
    return digest.hexdigest()


def joined_digest(files: Iterable[Path]) -> str:
    """Returns the SHA-256, in hex, of files read one after the other; of one file it is the file's own."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def file_fingerprint(file: Path) -> str:
    """Returns 16 hex digits over a file's size, beginning and end, which is cheap for files of many gigabytes."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_ENDS_BYTES))
        stream.seek(max(0, size - _ENDS_BYTES))
        digest.update(stream.read())
    return digest.hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Returns 16 hex digits over the names, sizes, beginnings and ends of a folder's own files."""
    return _digest_of(f"{file.name}:{file_fingerprint(file)}\n" for file in _own_files(folder))[:16]


def _own_files(folder: Path) -> list[Path]:
    """Returns the files right in a folder, hidden ones excepted, in the order of their names."""
    return sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _digest_of(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
