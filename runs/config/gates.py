"""[gates] of a configuration: which prompts are turned away before anything is spent on them."""

from __future__ import annotations

from typing import Self

from pydantic import Field, field_validator, model_validator

from fittest.runs.config.kinds import Kinds
from fittest.runs.config.paths import FileName
from fittest.runs.config.plugged import PluggedSection


class GatesSection(PluggedSection):
    """[gates]; a table [gates.NAME] switches a plug-in on, and holds its keys.

    0, or an empty list, switches a gate off; `parse` and `exact` have no key and are always asked.
    """

    min_chars: int = Field(default=10, ge=0, le=100_000_000)
    max_chars: int = Field(default=4000, ge=0, le=100_000_000)
    languages: tuple[str, ...] = ("en",)
    keywords: tuple[str, ...] = ("image", "picture", "graph")
    rouge_l: float = Field(default=0.7, ge=0, le=1)
    novelty: float = Field(default=0.05, ge=0, le=2)
    contamination: tuple[FileName, ...] = ()

    @classmethod
    def kinds(cls) -> Kinds:
        """Returns the gates that have a table."""
        return GATES

    @field_validator("keywords")
    @classmethod
    def _words(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if not all(any(letter.isalnum() for letter in keyword) for keyword in keywords):
            raise ValueError("a keyword needs a letter or digit; an empty list turns the gate off")
        return keywords

    @model_validator(mode="after")
    def _room_for_a_prompt(self) -> Self:
        if 0 < self.max_chars < self.min_chars:
            raise ValueError(f"min_chars = {self.min_chars} is more than max_chars = {self.max_chars}")
        return self


GATES = Kinds(
    "fittest.gates",
    "gate",
    {},
    # the eight that every run asks; most of them take their keys from [gates] itself
    reserved=frozenset({*GatesSection.model_fields, "parse", "length", "language", "exact"}),
)
