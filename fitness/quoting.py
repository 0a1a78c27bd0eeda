"""Quotes foreign text inside a request, so that a model reads it as text and not as markup of the chat."""

from __future__ import annotations

from fittest.evo.markup import FORMATS, Markup

# half a mark as well, whose other half may come with what follows
_TURN_MARKUP = Markup(rf"(?i:<\||{FORMATS})")

MARK_DIGITS = 32
"""The hex digits of the marks around a quotation: with 128 bits, no text can be found that holds its own mark."""


def without_turn_markup(text: str) -> str:
    """Returns the text with a space inside each mark of a chat format, whatever model will read it."""
    return _TURN_MARKUP.defused(text)
