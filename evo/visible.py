"""Makes visible what a terminal, a log or a page would otherwise obey: all foreign text goes through here."""

from __future__ import annotations

import json
import unicodedata

_ORDERS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of Unicode that are orders and not signs: controls, formats (bidi among them), halves of surrogates."""

_NUMBER_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Formats that have a shape of their own, such as the sign of a year in Arabic."""

_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that have no shape: a word that holds one looks like another word."""

_JOINERS = frozenset("\u200c\u200d")

_MOST_MARKS = 8
"""No language puts more marks upon one letter; a tower of them covers the lines above and below."""


def visible(text: str) -> str:
    r"""Returns the text with each character that is an order to a terminal written out, as in `\x1b`.

    Line breaks and tabs are written out as well: what is printed of others stands on one line. What belongs to the
    spelling of a language stays: joiners inside Persian words and emoji, variants of Chinese characters, marks upon
    letters. This is for what is printed or raised; what is stored stays as it is.

    Args:
        text: a text that a server, a model, a file or a user's data brought in.
    """
    if text.isascii() and text.isprintable():
        return text
    written: list[str] = []
    marks = 0
    for place, sign in enumerate(text):
        category = unicodedata.category(sign)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks > _MOST_MARKS or not _is_sign(text, place, category):
            written.append(sign.encode("unicode_escape").decode("ascii"))
        else:
            written.append(sign)
    return "".join(written)


def visible_json(text: str) -> str:
    r"""Returns JSON in which each such character is written as JSON's own escape, so that it means the same as before.

    Args:
        text: JSON; line breaks may only stand between its values, where they stay.
    """
    if text.isascii():
        return text
    escaped = (
        json.dumps(sign)[1:-1] if unicodedata.category(sign) in _ORDERS and sign != "\n" else sign for sign in text
    )
    return "".join(escaped)


def _is_sign(text: str, place: int, category: str) -> bool:
    """Tells whether a character is there to be read where it stands."""
    sign = text[place]
    before = text[place - 1] if place else ""
    if sign in _JOINERS:
        return _joins(before) and _joins(text[place + 1 : place + 2])
    if _selects(sign):
        return _has_variants(before, sign)
    return sign not in _UNSEEN and (category not in _ORDERS or sign in _NUMBER_SIGNS)


def _joins(neighbour: str) -> bool:
    """Tells whether a joiner changes the shape of what is beside it: in scripts from Arabic on, and in emoji."""
    if not neighbour or neighbour in _JOINERS:
        return False
    category = unicodedata.category(neighbour)
    if "\u0600" <= neighbour <= "\u1cff":
        return category[0] in "LM"
    return neighbour == "\ufe0f" or (neighbour > "\u2000" and category in {"So", "Sk"})


def _selects(sign: str) -> bool:
    """Tells whether a character selects a variant of the one before it."""
    return "\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef" or "\u180b" <= sign <= "\u180f"


def _has_variants(before: str, selector: str) -> bool:
    """Tells whether a character may have the variant; a second selector, or one upon a letter, only hides data."""
    if not before or _selects(before):
        return False
    if "\u180b" <= selector <= "\u180f":
        return "\u1800" <= before <= "\u18af"
    if selector >= "\U000e0100":
        return before >= "\u2e80" and unicodedata.category(before) == "Lo"
    return before in "0123456789#*©®" or before >= "\u1000"
