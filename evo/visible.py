"""Makes visible what a terminal, a log or a page would otherwise obey: all foreign text goes through here."""

from __future__ import annotations

import unicodedata

_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode that are orders and not signs: controls, formats (bidi among them), halves of surrogates."""


def visible(text: str) -> str:
    r"""Returns the text with each character that is an order to a terminal written out, as in `\x1b`.

    Line breaks and tabs are written out as well: what is printed of others stands on one line.

    Args:
        text: a text that a server, a model, a file or a user's data brought in.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written_out(sign) if unicodedata.category(sign) in _OBEYED else sign for sign in text)


def _written_out(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
