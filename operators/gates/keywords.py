"""Turns away prompts that name what a text model cannot handle, such as an image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.prompt import Prompt


class Keywords:
    """Looks for whole words or phrases in any case: "graph" is not found in "paragraph" or "graphs".

    Args:
        keywords: the words to turn away; without any, the gate is off.
    """

    name = "keywords"
    ordered = False
    screens_pool = True
    needs_embedding = False

    def __init__(self, *, keywords: Sequence[str]) -> None:
        # look-arounds instead of \b, which would not match beside a keyword that begins or ends with a symbol
        words = "|".join(re.escape(keyword) for keyword in keywords)
        self._pattern = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE) if keywords else None

    def check(self, prompt: Prompt) -> str | None:
        """Names the first keyword."""
        found = self._pattern.search(prompt.text) if self._pattern else None
        return f"contains {found[0].lower()!r}" if found else None

    def admit(self, prompt: Prompt) -> None:
        """Does nothing: the verdict does not depend on other prompts."""
