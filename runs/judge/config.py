"""The configuration of a judge: which engine judges, and how it is sampled and trained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fittest.evo.records import Sampling
from fittest.runs.config.engine import AnyEngine, LlamaCppSection
from fittest.runs.config.file import read_tables
from fittest.runs.config.section import Section, checked


class _SamplingSection(Section):
    """[judge.sampling] and [answers.sampling]."""

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)

    @property
    def sampling(self) -> Sampling:
        """Returns the settings in the form that a request takes."""
        return Sampling(self.temperature, self.top_p, self.max_tokens)

    @property
    def greedy(self) -> Sampling:
        """Settings that take the likeliest token at each step, with the same limit of tokens."""
        return Sampling(0.0, 1.0, self.max_tokens)


class _JudgeSection(Section):
    """[judge].

    Attributes:
        seed: the root of all draws.
        votes: judgments in each order when pairs are judged; a single one is greedy.
        samples: judgments of each pair when they are made to be trained on.
        sampling: how judgments are drawn.
    """

    seed: int = Field(default=0, ge=0)
    votes: int = Field(default=1, ge=1)
    samples: int = Field(default=15, ge=1)
    sampling: _SamplingSection = _SamplingSection()


class _AnswersSection(Section):
    """[answers]: how answers and changed instructions are written."""

    sampling: _SamplingSection = _SamplingSection()


class _LabelSampling(_SamplingSection):
    """[labels.sampling]."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=48, ge=1)


class _LabelsSection(Section):
    """[labels]: how instructions are labelled."""

    sampling: _LabelSampling = _LabelSampling()


class _TrainSection(Section):
    """[train]: the keys of `TrainingSettings` but two: the seed is that of [judge], the device that of [engine]."""

    method: Literal["lora", "full"] = "lora"
    objective: Literal["sft", "dpo"] = "sft"
    iterations: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=2, ge=1)
    patience: int = Field(default=1, ge=1)
    batch_size: int = Field(default=8, ge=1)
    rank: int = Field(default=16, ge=1)
    beta: float = Field(default=0.1, gt=0)
    max_length: int = Field(default=4096, ge=1)


class JudgeConfig(Section):
    """The whole of judge.toml."""

    judge: _JudgeSection = _JudgeSection()
    answers: _AnswersSection = _AnswersSection()
    labels: _LabelsSection = _LabelsSection()
    train: _TrainSection = _TrainSection()
    engine: AnyEngine = LlamaCppSection()

    @model_validator(mode="after")
    def _sampling_where_it_counts(self) -> Self:
        if "sampling" in self.engine.model_fields_set:
            raise ValueError("engine.sampling does not count here; write [judge.sampling] or [answers.sampling]")
        return self


def load_judge_config(path: Path | None, overrides: Iterable[str] = ()) -> JudgeConfig:
    """Returns judge.toml, read and checked; without a file, the defaults, whose engine is the embedded model.

    Args:
        path: the TOML file; a relative path in it starts from the file's own folder.
        overrides: "table.key=value" with a TOML value; a bare word is taken as a string.

    Raises:
        FittestError: the file or a key is wrong; the message says which.
    """
    tables, name = read_tables(path, overrides, unnamed="judge")
    return checked(JudgeConfig, tables, name=name, folder=None if path is None else path.parent)
