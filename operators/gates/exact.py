"""Turns away prompts whose text was admitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt


class Exact:
    """Remembers every admitted text; white space at its two ends makes no difference."""

    name = "exact"
    ordered = True
    screens_pool = True
    needs_embedding = False

    def __init__(self) -> None:
        self._admitted: dict[str, str] = {}

    def check(self, prompt: Prompt) -> str | None:
        """Names the earlier prompt with the same text."""
        earlier = self._admitted.get(prompt.text.strip())
        return f"same text as {earlier}" if earlier else None

    def admit(self, prompt: Prompt) -> None:
        """Remembers the text, with the first prompt that had it."""
        self._admitted.setdefault(prompt.text.strip(), prompt.id)
