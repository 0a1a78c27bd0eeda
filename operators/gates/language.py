"""Turns away prompts that are clearly in another language than those asked for."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.prompt import Prompt


class Language:
    """Identifies the language with py3langid; in case of doubt the prompt passes.

    A prompt is turned away only when one language that was not asked for has a probability of at least 0.5, and all
    languages asked for have less than 0.01 together. Short prompts and code seldom reach that, and so pass.

    Args:
        languages: ISO 639 codes; without any, the gate is off and the language model is never loaded.
    """

    name = "language"
    ordered = False
    screens_pool = True
    needs_embedding = False

    SURE = 0.5
    NEXT_TO_NONE = 0.01

    def __init__(self, *, languages: Sequence[str]) -> None:
        self.languages = frozenset(languages)

    def load(self) -> None:
        """Loads the language model now instead of at the first prompt.

        Raises:
            FittestError: a language is not an ISO 639 code that the model knows.
        """
        if self.languages:
            self._identifier  # noqa: B018 - a cached property

    def check(self, prompt: Prompt) -> str | None:
        """Names the language that was found, if it is clearly another."""
        if not self.languages:
            return None
        found, probability = self._identifier.classify(prompt.text)
        if found in self.languages or probability < self.SURE:
            return None
        wanted = sum(share for language, share in self._identifier.rank(prompt.text) if language in self.languages)
        if wanted >= self.NEXT_TO_NONE:
            return None
        return f"written in {found}, not in {', '.join(sorted(self.languages))}"

    def admit(self, prompt: Prompt) -> None:
        """Does nothing: the verdict does not depend on other prompts."""

    @cached_property
    def _identifier(self) -> Any:
        identifier = _language_model()
        unknown = sorted(self.languages - set(identifier.labels))
        if unknown:
            raise FittestError(f"gates.languages: {', '.join(unknown)} is no ISO 639 code that py3langid knows")
        return identifier


@cache
def _language_model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # without norm_probs it gives log-likelihoods, which no threshold fits
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
