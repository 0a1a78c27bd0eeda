"""How foreign text is quoted inside a request, so that a model reads it as text and not as markup of the chat."""

from __future__ import annotations

import re

# what llama.cpp's and others' tokenizers would read as the end of a turn, although it stands inside one
_TURN_MARKUP = re.compile(r"<(?=\||/?s>|(?:start|end)_of_turn>)", re.IGNORECASE)


def without_turn_markup(text: str) -> str:
    """The text with what a tokenizer would read as the end of a turn made harmless."""
    return _TURN_MARKUP.sub("< ", text)
