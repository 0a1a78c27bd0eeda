"""Writes foreign text into Markdown so that it stays text, without a link, an image, a heading or HTML of its own."""

from __future__ import annotations

import re

from fittest.evo.visible import visible

_MARKS = re.compile(r"[\\`*\[\]<>&|~$#]|(?<![^\W_])_|_(?![^\W_])")
"""What means something to Markdown wherever it stands; an underscore does not inside a word, as in max_tokens."""

_LINKED = re.compile(r"://|www\.|@", re.I)
"""What hubs turn into a link or a mention although nothing marks it; a backslash does not stop all of them."""

_BEGINS_BLOCK = re.compile(r"^(?=[-+=:])|(?<=\d)(?=[.)]$)")
"""Where a first word would begin a list or underline a heading."""


def markdown(text: str) -> str:
    """Returns a text that CommonMark and GitHub's Markdown show as it is, on one line.

    Args:
        text: a text that a file, a server or a user brought in.
    """
    # spaces before a word would make it code
    words = [_word(word) for word in visible(text).split(" ") if word]
    return _BEGINS_BLOCK.sub(r"\\", words[0], count=1) + "".join(f" {word}" for word in words[1:]) if words else ""


def code_block(text: str) -> list[str]:
    """Returns the lines of a text as a block of code, which nothing in the text can end.

    Args:
        text: a text that a file, a server or a user brought in.
    """
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return [f"{fence}text", *map(visible, text.splitlines()), fence]


def _word(word: str) -> str:
    if _LINKED.search(word):
        fence = "`" * (_longest_ticks(word) + 1)
        # a table takes the backslash away again; a space parts a tick of the word from the fence
        inside = word.replace("|", r"\|")
        padding = " " if inside[0] == "`" or inside[-1] == "`" else ""
        return f"{fence}{padding}{inside}{padding}{fence}"
    return _MARKS.sub(r"\\\g<0>", word)


def _longest_ticks(text: str) -> int:
    return max((len(ticks) for ticks in re.findall("`+", text)), default=0)
