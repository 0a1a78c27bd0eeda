"""Hides keys in what others say, however they write them, and recognises a key that stands where none belongs."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from urllib.parse import quote

HIDDEN = "[key]"

_SHORTEST = 8
"""A shorter key is a placeholder such as "EMPTY", and also a word that an answer may hold."""

_PIECE = 11
"""So many characters of a key in a row are no accident; services themselves show fewer, as in sk-ab…yz."""

_LONG_PIECE = 20
"""So many are none even if they look like words, as in my-development-server."""

_LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
_OTHERS = bytes(byte for byte in range(256) if not (byte < 128 and chr(byte).isalnum()))


def _squeezed(text: str) -> bytes:
    """Returns the letters and digits of ASCII in lower case: what stands between them cannot part a key."""
    return text.encode("utf-8", "surrogatepass").translate(_LOWER, _OTHERS)


def _windows_of(squeezed: bytes) -> list[int]:
    """Returns every fourth window of eight characters: one of them lies within any eleven characters of the text.

    All texts of a run come by here, and a window that is a number costs a tenth of one that is a text.
    """
    padded = memoryview(squeezed.ljust(16))
    return [*_numbers(padded), *_numbers(padded[4:])]


def _numbers(view: memoryview) -> list[int]:
    return view[: len(view) // 8 * 8].cast("Q").tolist()


def _number(window: bytes) -> int:
    return _numbers(memoryview(window))[0]


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to write a key, squeezed.

    Attributes:
        whole: the key in this form.
        wordy: for each place whether it is a letter that stands among letters of its own case, as in a word.
        piece: the fewest characters in a row that count as a part of the key.
    """

    whole: bytes
    wordy: tuple[bool, ...]
    piece: int

    @property
    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yields parts of the form and their places; every piece of it holds one of them."""
        if len(self.whole) < self.piece:
            yield 0, self.whole
            return
        size = (self.piece + 1) // 2
        for place in range(0, len(self.whole) - size + 1, size):
            yield place, self.whole[place : place + size]

    def spans(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Yields where pieces of the form stand in a squeezed text."""
        for place, block in self.blocks:
            at = text.find(block)
            while at >= 0:
                low, high = place, place + len(block)
                shift = at - place
                while low and low + shift and self.whole[low - 1] == text[low + shift - 1]:
                    low -= 1
                while high < len(self.whole) and high + shift < len(text) and self.whole[high] == text[high + shift]:
                    high += 1
                if self._counts(low, high):
                    yield low + shift, high + shift
                at = text.find(block, at + 1)

    def _counts(self, low: int, high: int) -> bool:
        if high - low == len(self.whole) or high - low >= max(self.piece, _LONG_PIECE):
            return True
        return high - low >= self.piece and not all(self.wordy[low:high])


class Keys:
    """Hides keys in texts: whole ones and pieces, also in other case, parted by spaces or signs, or encoded.

    Base64 at any place of a longer text, hexadecimal, percent signs and the escapes of JSON and HTML are seen through.
    A key of fewer than 8 characters is hidden by `hidden_in` nowhere; one that consists of words, such as
    "not-needed", only where it stands as it is.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        # the longest first, since one may be part of another
        self._all = sorted(set(keys), key=lambda key: (-len(key), key))
        long = [key for key in self._all if len(key) >= _SHORTEST]
        self._forms = [form for key in long for form in _forms(key)]
        pieced = [form.whole for form in self._forms if len(form.whole) >= _PIECE]
        self._windows = frozenset(_number(form[at : at + 8]) for form in pieced for at in range(len(form) - 7))
        self._wholes = [form.whole for form in self._forms if len(form.whole) < _PIECE]
        self._literally = [(_squeezed(key), re.compile(re.escape(key), re.I)) for key in long if _is_literal(key)]
        short = [re.escape(key) for key in self._all if 4 <= len(key) < _SHORTEST]
        self._short = re.compile(rf"(?<![^\W_])(?:{'|'.join(short)})(?![^\W_])") if short else None

    def hidden_in(self, text: str) -> str:
        """Returns a text of a model or a service without the keys, since some repeat them.

        Args:
            text: any text; one without a key is returned as it is.
        """
        if not self._forms:
            return text
        squeezed = _squeezed(text)
        if not self._windows.isdisjoint(_windows_of(squeezed)) or any(key in squeezed for key in self._wholes):
            text = self._without_spans(text, squeezed)
        for letters, key in self._literally:
            if letters in squeezed:
                text = key.sub(HIDDEN, text)
        return text

    def hidden_in_words(self, text: str) -> str:
        """Returns what a server says about an error without the keys, and without short ones that are whole words.

        Args:
            text: the words, which are for people: unlike in an answer, a placeholder may be hidden in them.
        """
        text = self.hidden_in(text)
        return text if self._short is None else self._short.sub(HIDDEN, text)

    def _without_spans(self, text: str, squeezed: bytes) -> str:
        spans = sorted(span for form in self._forms for span in form.spans(squeezed))
        places = [place for place, sign in enumerate(text) if sign.isascii() and sign.isalnum()]
        parts, end = [], 0
        for first, after in spans:
            low, high = places[first], places[after - 1] + 1
            if low > end or not end:
                parts += [text[end:low], HIDDEN]
            end = max(end, high)
        return "".join([*parts, text[end:]])


def _forms(key: str) -> Iterator[_Form]:
    """Yields the forms of a key of which pieces are looked for."""
    if not _is_literal(key):
        yield _form(key, _wordy(key))
    if quote(key, safe="") != key and not all(_wordy(key)):
        yield _form(quote(key, safe=""))
    content = key.encode()
    for offset in range(3):
        encoded = b64encode(bytes(offset) + content).decode()
        # the first and the last characters depend on what stands beside the key
        yield _form(encoded[(0, 2, 3)[offset] : 8 * (offset + len(content)) // 6], signs=4 / 3)
    yield _form("".join(f"{byte:02x}" for byte in content), signs=2)
    yield _form("".join(f"x{byte:02x}" for byte in content), signs=3)
    yield _form("".join(f"u{byte:04x}" for byte in content), signs=5)
    yield _form("".join(f"{byte}" for byte in content), signs=2.5)


def _form(text: str, wordy: tuple[bool, ...] | None = None, *, signs: float = 1.0) -> _Form:
    whole = _squeezed(text)
    return _Form(whole, wordy or (False,) * len(whole), max(_SHORTEST, ceil(_PIECE * signs)))


def _is_literal(key: str) -> bool:
    """Tells whether a key is hidden as it stands alone: an answer about local keys is no leak of "local-key"."""
    wordy = _wordy(key)
    return len(wordy) < _SHORTEST or all(wordy)


def _wordy(key: str) -> tuple[bool, ...]:
    """Returns for each letter and digit whether it is a letter, and no capital after a small letter."""
    own = [sign for sign in key if sign.isascii() and sign.isalnum()]
    return tuple(
        sign.isalpha() and not (sign.isupper() and before.islower())
        for before, sign in zip(["", *own], own, strict=False)
    )


_PREFIXED = re.compile(
    r"\b(sk|pk|rk)-[\w-]{16,}|\b(hf|gsk|ghp|gho|ghs|pplx|xai|fw|r8|nvapi|glpat|github_pat|csk|tgp)[_-]\w{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bxox[abprs]-[\w-]{10,}|\bBearer\s+[\w.~+/-]{16,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}|://[^/\s@]*:[^/\s@]+@"
)
"""How keys of known services begin; at the end, a password in an address."""

_LOOKS_DRAWN = re.compile(r"(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9]{20,}")
"""Letters and digits without a break, as in a key that was drawn by chance; a name has underscores in it."""


def holds_key(text: str) -> bool:
    """Tells whether a text holds what looks like the key of a known service, or an address with a password."""
    return _PREFIXED.search(text) is not None


_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SECRET = re.compile(
    r"((^|[_-])(key|api_?key|password|passwd|secret|credentials?|authorization)"
    r"|(^|(hf|hub|auth|access|api|bearer|session)[_-])token)$",
    re.I,
)


def is_secret_name(name: str) -> bool:
    """Tells whether an argument of this name holds a secret; `pad_token` and `max_num_batched_tokens` hold none.

    Args:
        name: the name, in any style: "apiKey" is "api_Key" in another.
    """
    return _SECRET.search(_HUMP.sub("_", name)) is not None


_SECRET_VARIABLE = re.compile(r"(key|token|secret|passw(or)?d|credentials?)$", re.I)


def without_keys(text: str) -> str:
    """Returns a text without the keys of this process: those of its environment, and the token of the model hub.

    It is for what is printed or raised, where nobody knows any more which request a text belongs to.

    Args:
        text: a text of any origin.
    """
    found = [value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    return _keys_of((*found, _token_on_disk())).hidden_in(text)


def without_secret_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment for a child process that needs no key.

    Args:
        environment: the environment of this process.
    """
    return {name: value for name, value in environment.items() if not _SECRET_VARIABLE.search(name)}


@lru_cache(maxsize=8)
def _keys_of(values: tuple[str, ...]) -> Keys:
    return Keys(value.strip() for value in values if not _is_path(value.strip()))


def _is_path(value: str) -> bool:
    """Tells whether a variable names a file, as GOOGLE_APPLICATION_CREDENTIALS does; a key may begin with / too."""
    folder = os.path.dirname(value)  # noqa: PTH120 - Path.parent of a key that is too long raises in is_dir
    return value.startswith("/") and folder != "/" and os.path.isdir(folder)  # noqa: PTH112


def _token_on_disk() -> str:
    """Returns the token that `hf auth login` has stored, or nothing; huggingface_hub is not loaded for it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser().read_text(encoding="ascii")
    except (OSError, ValueError, RuntimeError):
        return ""


def is_no_name(text: str) -> bool:
    """Tells whether what should be the name of an environment variable looks like a key instead."""
    return holds_key(text) or _LOOKS_DRAWN.search(text) is not None
