"""Computes log-probabilities of answers with vLLM in this process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fittest.fitness.reference.pairs import AnsweredPair, PairLogProbabilities, PairTokens, pair_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.fitness.baselines.vllm_likelihood import VllmLikelihood


class VllmReference:
    """Asks a model that vLLM runs, in the precision in which it runs it.

    Args:
        model: the model, which is loaded at the first pair.
    """

    def __init__(self, model: VllmLikelihood) -> None:
        self._model = model

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the model."""
        return f"reference:{self._model.fingerprint}"

    def log_probabilities(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        """Returns the log-probabilities of each pair; None if one of its answers is too long for the model.

        Args:
            pairs: the chats with their answers.

        Raises:
            FittestError: the model cannot be loaded, or has no chat template.
        """
        read = [pair_tokens(self._model.tokenizer, pair) for pair in pairs]
        # vLLM always writes one more token
        fitting = [place for place, tokens in enumerate(read) if self._longest(tokens) < self._model.context]
        asked = [tokens for place in fitting for tokens in (read[place].chosen, read[place].rejected)]
        found = self._model.prompt_logprobs(asked)
        values: list[PairLogProbabilities | None] = [None] * len(read)
        for place, chosen, rejected in zip(fitting, found[::2], found[1::2], strict=True):
            tokens = read[place]
            values[place] = PairLogProbabilities(
                _sum(chosen, tokens.chosen, tokens.begun), _sum(rejected, tokens.rejected, tokens.begun)
            )
        return values

    def _longest(self, tokens: PairTokens) -> int:
        return max(len(tokens.chosen), len(tokens.rejected))


def _sum(logprobs: Any, tokens: list[int], begun: int) -> float:
    first = max(begun, 1)
    return math.fsum(logprobs[place][token].logprob for place, token in enumerate(tokens[first:], start=first))
