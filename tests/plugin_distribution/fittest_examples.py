"""One plug-in of each group, as another distribution brings them; none of them needs a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fittest.evo import Completion, Prompt, Range, Request, Thresholds
from fittest.evo.records import METRICS
from fittest.runs import (
    EmbedderSection,
    EngineSection,
    Kind,
    PolicyContext,
    RewardContext,
    RewardSection,
    Section,
    SelectionSection,
)


class ParrotSection(EngineSection):
    """[engine] of kind "parrot"."""

    vocabulary: tuple[str, ...] = Field(default=("red", "green", "blue", "grey", "gold", "pink"), min_length=2)
    volume: int = Field(ge=1)


class Parrot:
    """Answers with words of its vocabulary, drawn by the request's own seed."""

    def __init__(self, section: ParrotSection) -> None:
        self.slots = section.slots
        self.fingerprint = f"parrot:{section.volume}:{'-'.join(section.vocabulary)}"
        self._section = section

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return

    async def sample(self, request: Request) -> Completion:
        rng = random.Random(f"{request.seed} {request.user_text}")
        words = [rng.choice(self._section.vocabulary) for _ in range(rng.randint(6, 12) * self._section.volume)]
        return Completion("Say these: " + " ".join(words) + ".", "stop", request.user_text.count(" ") + 1, len(words))


PARROT = Kind(Parrot, ParrotSection)


class NearLengthSection(RewardSection):
    """[reward] of kind "near-length"."""

    wanted: int = Field(default=60, ge=1)


class NearLength:
    """Likes responses whose length is near the wanted one."""

    quick = True

    def __init__(self, section: NearLengthSection, context: RewardContext) -> None:
        self.fingerprint = f"near-length:{section.wanted}:{context.backend.fingerprint}"
        self._wanted = section.wanted

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [-abs(len(response) - self._wanted) / self._wanted for response in responses]


NEAR_LENGTH = Kind(NearLength, NearLengthSection)


class LettersSection(EmbedderSection):
    """[diversity.embedder] of kind "letters"."""

    power: float = Field(default=1.0, gt=0)


class Letters:
    """Counts letters."""

    quick = True
    dimension = 26

    def __init__(self, section: LettersSection, device: str) -> None:
        self.fingerprint = f"letters:{section.power}"
        self._power = section.power

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)
        raised = (counts + 0.01) ** np.float32(self._power)
        vectors: NDArray[np.float32] = raised / np.linalg.norm(raised, axis=1, keepdims=True)
        return vectors


LETTERS = Kind(Letters, LettersSection)


class AppendSection(Section):
    """[operators.append]."""

    words: tuple[str, ...] = Field(min_length=1)


def appending(section: AppendSection) -> Callable[..., str]:
    """An operator of one parent, which adds a word to it."""

    def append(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        return f"{parent.text} {rng.choice(section.words)} {rng.integers(1000)}?"

    return append


APPEND = Kind(appending, AppendSection)


def reverse(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    """An operator without keys is the function itself."""
    return " ".join(reversed(parent.text.split())) + f" {rng.integers(1000)}?"


class QuestionSection(Section):
    """[gates.question]."""

    marks: str = Field(default="?", min_length=1)


class Question:
    """Turns away offspring that ask nothing."""

    name = "question"
    ordered = False
    screens_pool = False
    needs_embedding = False

    def __init__(self, section: QuestionSection) -> None:
        self._marks = section.marks

    def check(self, prompt: Prompt) -> str | None:
        return None if any(mark in prompt.text for mark in self._marks) else f"has none of {self._marks}"

    def admit(self, prompt: Prompt) -> None:
        pass


QUESTION = Kind(Question, QuestionSection)


class AboveWorstSection(SelectionSection):
    """[selection] with policy "above-worst"."""

    share: float = Field(ge=0, lt=1)


class AboveWorst:
    """Cuts m1 at a share of the way from the worst prompt of the pool to the best."""

    name = "above-worst"

    def __init__(self, section: AboveWorstSection, context: PolicyContext) -> None:
        self._share = section.share
        self._bounds = section.bounds
        self._fitted: Thresholds | None = None

    def known(self, generation: int) -> Thresholds | None:
        return self._fitted

    def fit(self, generation: int, values: NDArray[np.float64]) -> Thresholds:
        m1 = values[:, METRICS.index("m1")]
        cut = float(m1.min() + self._share * (m1.max() - m1.min())) if len(m1) else None
        fitted = Thresholds(self.name, {"m1": Range(low=cut)}, self._bounds, prompts_fitted=len(m1))
        if len(m1):
            self._fitted = fitted
        return fitted


ABOVE_WORST = Kind(AboveWorst, AboveWorstSection)


def tsv(survivor: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An exporter is the function itself."""
    yield {"line": f"{survivor['prompt_id']}\t{survivor['chosen']}"}
