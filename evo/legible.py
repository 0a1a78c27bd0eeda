"""Bounds what is looked for a verdict, a label or a task in a model's text, which may be of any length and shape."""

from __future__ import annotations

import re

MOST_READ = 65_536
"""A parser looks at so many characters of a reply; the beginning and the end of a longer one are read."""

_LONGEST_RUN = 64
_RUN = re.compile(rf"\W{{{_LONGEST_RUN + 1},}}")


def legible(text: str) -> str:
    """Returns the text with what no parser needs left out, so that reading it takes time in proportion to its length.

    Runs of more than 64 marks, spaces and line breaks are shortened; a run that breaks a line still does. A regular
    expression that looks for a line of its own tries each line break in turn, and would read a long run once for each.

    Args:
        text: a reply of a model, in which a short answer is looked for.
    """
    if len(text) > MOST_READ:
        text = f"{text[: MOST_READ // 2]}\n{text[-MOST_READ // 2 :]}"
    return _RUN.sub(_shortened, text)


def _shortened(run: re.Match[str]) -> str:
    half = _LONGEST_RUN // 2
    line_break = "\n" if "\n" in run[0] else ""
    return run[0][:half] + line_break + run[0][-half:]
