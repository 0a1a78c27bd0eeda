"""Turns away prompts that are too short or too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt


class Length:
    """Bounds the number of Unicode code points of a prompt; both bounds are inclusive.

    Args:
        min_chars: the fewest code points.
        max_chars: the most code points; 0 sets no bound.

    Raises:
        ValueError: the bounds are negative or exclude every length.
    """

    name = "length"
    ordered = False
    screens_pool = True
    needs_embedding = False

    def __init__(self, *, min_chars: int, max_chars: int) -> None:
        if not (0 <= min_chars <= max_chars or (min_chars > 0 == max_chars)):
            raise ValueError(f"need 0 <= min_chars <= max_chars; found {min_chars} and {max_chars}")
        self.min_chars = min_chars
        self.max_chars = max_chars

    def check(self, prompt: Prompt) -> str | None:
        """Names the length and the bound that it breaks."""
        length = len(prompt.text)
        if length < self.min_chars:
            return f"{length} characters, fewer than {self.min_chars}"
        if 0 < self.max_chars < length:
            return f"{length} characters, more than {self.max_chars}"
        return None

    def admit(self, prompt: Prompt) -> None:
        """Does nothing: the verdict does not depend on other prompts."""
