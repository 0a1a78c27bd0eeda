"""Reads the header of a GGUF file, and refuses one that lies: llama.cpp ends the whole process at some of them."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fittest.evo.errors import FittestError
from fittest.evo.markup import Markup

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# more than any model has; what a file claims above it is refused before anything is read
_MOST_KEYS, _MOST_TENSORS, _MOST_DIMENSIONS = 2**16, 2**18, 4
_LONGEST_NAME = 2**16

_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_TOKENS, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_TEMPLATE, _ALIGNMENT = "tokenizer.chat_template", "general.alignment"
_SCORES = "tokenizer.ggml.scores"
_KEPT = (_TOKENS, _TYPES, _SCORES, _TEMPLATE, _ALIGNMENT, "general.architecture")

_RANGES = {".block_count": (1, 512), ".context_length": (1, 2**32 - 1), "_epsilon": (0.0, 1.0)}
"""Keys by their ends, and values outside of which llama.cpp ends the process; the number of layers is its own."""

_UNKNOWN, _CONTROL = 2, 3
"""The types of tokens that llama.cpp never makes of plain text but only of marks."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Holds what we use of a header.

    Attributes:
        values: the values of the keys that are kept.
    """

    values: dict[str, Any]

    @property
    def template(self) -> str:
        """Returns the chat template; the empty string if the file has none."""
        found = self.values.get(_TEMPLATE)
        return found if isinstance(found, str) else ""

    def markup(self) -> Markup:
        """Returns the marks of the model's chats."""
        tokens: list[str] = self.values.get(_TOKENS) or []
        types: list[int] = self.values.get(_TYPES) or []
        special = (token for token, kind in zip(tokens, types, strict=False) if kind in (_UNKNOWN, _CONTROL))
        # llama.cpp takes some tokens for marks by their names, whatever their type is
        named = (token for token in tokens if token[:1] in ("<", "["))
        return Markup.of_model(special, named, self.template)


def read_gguf_header(file: Path) -> GgufHeader:
    """Reads the header, and checks every count, length and offset in it against the size of the file.

    Args:
        file: a GGUF file.

    Raises:
        FittestError: it is no GGUF file, or not a whole one; whoever called names the file.
    """
    size = file.stat().st_size
    if size < len(_MAGIC):
        raise FittestError(f"not a GGUF file: it has {size} bytes")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != _MAGIC:
            raise FittestError(f"not a GGUF file: it begins with {content[:4]!r} and not with {_MAGIC!r}")
        try:
            return _header(_Reader(content))
        except (_LyingError, struct.error, UnicodeDecodeError, OverflowError) as error:
            raise FittestError(f"not a whole GGUF file: {error}") from None


class _LyingError(Exception):
    """Reports a header that contradicts itself or the size of its file."""


class _Reader:
    """Reads one value after the other; reading past the end is an error."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 4

    def number(self, kind: str) -> Any:
        if self.at + struct.calcsize(kind) > len(self.content):
            raise _LyingError("it ends within its header")
        (value,) = struct.unpack_from(f"<{kind}", self.content, self.at)
        self.at += struct.calcsize(kind)
        return value

    def take(self, length: int) -> bytes:
        if length > len(self.content) - self.at:
            raise _LyingError(f"its header claims {length:,} bytes where {len(self.content) - self.at:,} are left")
        self.at += length
        return self.content[self.at - length : self.at]

    def text(self, longest: int | None = None) -> str:
        length = self.number("Q")
        if longest is not None and length > longest:
            raise _LyingError(f"a name of {length:,} bytes")
        return self.take(length).decode(errors="replace")

    def value(self, kind: int, *, kept: bool) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(kept=kept)
        if kind not in _NUMBERS:
            raise _LyingError(f"a value of type {kind}, which does not exist")
        return self.number(_NUMBERS[kind])

    def _array(self, *, kept: bool) -> list[Any] | None:
        kind, count = self.number("I"), self.number("Q")
        if kind in _NUMBERS:
            form = _NUMBERS[kind]
            # take() compares the length with the size of the file, before a list is made
            numbers = self.take(count * struct.calcsize(form))
            return list(struct.unpack(f"<{count}{form}", numbers)) if kept else None
        if kind != _STRING:
            raise _LyingError(f"an array of type {kind}, which no model has")
        if count * 8 > len(self.content) - self.at:
            raise _LyingError(f"an array of {count:,} texts, which do not fit into the file")
        return self._texts(count, kept=kept)

    def _texts(self, count: int, *, kept: bool) -> list[str] | None:
        # a vocabulary has up to some hundred thousand texts, so this loop calls nothing of ours
        content, at, length_at = self.content, self.at, struct.Struct("<Q").unpack_from
        places = []
        for _ in range(count):
            (length,) = length_at(content, at)
            places.append((at + 8, at + 8 + length))
            at += 8 + length
        if at > len(content):
            raise _LyingError("it ends within an array of texts")
        self.at = at
        return [content[begin:end].decode(errors="replace") for begin, end in places] if kept else None


def _header(reader: _Reader) -> GgufHeader:
    version, tensors, keys = reader.number("I"), reader.number("Q"), reader.number("Q")
    if version not in _VERSIONS:
        raise _LyingError(f"version {version} of the format; expected {_VERSIONS[0]} or {_VERSIONS[1]}")
    for name, count, most in (("keys", keys, _MOST_KEYS), ("tensors", tensors, _MOST_TENSORS)):
        if count > most:
            raise _LyingError(f"it claims {count:,} {name}")
    values = dict(_values(reader, keys))
    _check_values(values)
    _check_tensors(reader, tensors, values.get(_ALIGNMENT, 32))
    return GgufHeader(values)


def _values(reader: _Reader, keys: int) -> Iterator[tuple[str, Any]]:
    for _ in range(keys):
        name = reader.text(_LONGEST_NAME)
        kept = name.endswith((*_KEPT, *_RANGES))
        value = reader.value(reader.number("I"), kept=kept)
        if kept:
            yield name, value


def _check_values(values: dict[str, Any]) -> None:
    """Checks what llama.cpp trusts: sizes that lie in a range, and one type and score for each token."""
    for name, value in values.items():
        for low, high in (bounds for end, bounds in _RANGES.items() if name.endswith(end)):
            # the negation, so that NaN fails
            if not (isinstance(value, int | float) and low <= value <= high):
                raise _LyingError(f"{name[:80]} is {str(value)[:40]}; expected {low} to {high}")
    tokens = values.get(_TOKENS, [])
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens[:1]):
        raise _LyingError(f"{_TOKENS} is no list of texts")
    for name in (_TYPES, _SCORES):
        if name in values and not (isinstance(values[name], list) and len(values[name]) == len(tokens)):
            raise _LyingError(f"{name} does not have one value for each of {len(tokens):,} tokens")


def _check_tensors(reader: _Reader, tensors: int, alignment: object) -> None:
    """Checks that each tensor lies within the file."""
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _LyingError(f"an alignment of {alignment}")
    places = []
    for _ in range(tensors):
        name, dimensions = reader.text(_LONGEST_NAME), reader.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _LyingError(f"the tensor {name[:80]!r} has {dimensions:,} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= reader.number("Q")
        places.append((name, elements, reader.number("I"), reader.number("Q")))
    data = -(-reader.at // alignment) * alignment
    sizes = _block_sizes() if places else {}
    for name, elements, kind, offset in places:
        # a type that is newer than our table is left to llama.cpp, but its beginning must lie in the file
        elements_in_block, bytes_of_block = sizes.get(kind, (1, 0))
        end = data + offset + -(-elements // elements_in_block) * bytes_of_block
        if end > len(reader.content):
            raise _LyingError(f"the tensor {name[:80]!r} ends at byte {end:,} of {len(reader.content):,}")


def _block_sizes() -> dict[int, tuple[int, int]]:
    """Returns the elements and bytes of a block of each type of tensor."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError:
        return {}
    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}
