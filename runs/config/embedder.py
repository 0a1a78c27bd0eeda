"""[diversity] of a configuration: what measures distances between prompts, and with how many neighbours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo

from fittest.runs.config.kind_section import KindSection, SectionKinds
from fittest.runs.config.kinds import Kind
from fittest.runs.config.paths import NameOrFile
from fittest.runs.config.section import Section


class EmbedderSection(KindSection):
    """What the sections of all embedders have in common; a plug-in's is the table [diversity.embedder]."""

    def written(self) -> Any:
        """Returns what stands in run.toml."""
        return self.model_dump(mode="json", exclude_none=True)


class HashSection(EmbedderSection):
    """Feature hashing, which needs no model: `embedder = "hash"`."""

    kind: Literal["hash"] = "hash"

    def written(self) -> Any:
        """Returns the short form."""
        return self.kind


class SentenceTransformersSection(EmbedderSection):
    """A sentence-transformers model: `embedder = "minilm"`, or a folder."""

    kind: Literal["sentence-transformers"] = "sentence-transformers"
    model: NameOrFile = "minilm"

    def written(self) -> Any:
        """Returns the short form."""
        return self.model


EMBEDDERS = SectionKinds(
    "fittest.embedders",
    "embedder",
    {
        "hash": Kind("fittest.runs.parts.rewards:hashing", HashSection),
        "sentence-transformers": Kind("fittest.runs.parts.rewards:sentence_transformers", SentenceTransformersSection),
    },
    base=EmbedderSection,
    default="sentence-transformers",
)


def _read(given: object, info: ValidationInfo) -> object:
    """Returns the section of a table, or of its short form: the name of a kind, or else a model."""
    if isinstance(given, str):
        given = {"kind": given} if given in EMBEDDERS else {"model": given}
    return EMBEDDERS.read(given, info)


_Embedder = Annotated[
    EmbedderSection, BeforeValidator(_read), PlainSerializer(lambda section: section.written(), return_type=Any)
]
"""The section of the kind that a table or a word names."""


class DiversitySection(Section):
    """[diversity]."""

    embedder: _Embedder = SentenceTransformersSection()
    neighbours: int = Field(default=10, ge=1, le=1_000_000)
    device: str = "auto"
