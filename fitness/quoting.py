"""Quotes foreign text inside a request, so that a model reads it as text and not as markup of the chat."""

from __future__ import annotations

import re

# llama.cpp's tokenizer and others read these as the end of a turn, even inside a message
_TURN_MARKUP = re.compile(r"<(?=\||/?s>|(?:start|end)_of_turn>)", re.IGNORECASE)


def without_turn_markup(text: str) -> str:
    """Returns the text with a space inside each mark that a tokenizer would read as the end of a turn."""
    return _TURN_MARKUP.sub("< ", text)
