"""Turns away prompts that hold nothing, or characters that no one can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fittest.operators.parsing import unreadable_character

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt


class Readable:
    """Wants at least one character beside white space, and no control, surrogate or replacement characters.

    It counts as "parse": a reply that could not be read and a prompt that cannot be read are one thing to a reader of
    the tables.
    """

    name = "parse"
    ordered = False
    screens_pool = True
    needs_embedding = False

    def check(self, prompt: Prompt) -> str | None:
        """Say "empty" or name the first unreadable character."""
        if not prompt.text.strip():
            return "empty"
        character = unreadable_character(prompt.text)
        return f"unreadable character {character}" if character else None

    def admit(self, prompt: Prompt) -> None:
        """Nothing to note."""
