"""Turns away prompts that are empty, or hold characters that nobody can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.operators.parsing import unreadable_character

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt


class Readable:
    """Requires a character that is not white space, and no control, surrogate or replacement characters.

    Its name in the tables is "parse", because a reader of the tables need not tell a reply that could not be read from
    a prompt that cannot be read.
    """

    name = "parse"
    ordered = False
    screens_pool = True
    needs_embedding = False

    def check(self, prompt: Prompt) -> str | None:
        """Says "empty", or names the first unreadable character."""
        if not prompt.text.strip():
            return "empty"
        character = unreadable_character(prompt.text)
        return f"unreadable character {character}" if character else None

    def admit(self, prompt: Prompt) -> None:
        """Does nothing: the verdict does not depend on other prompts."""
