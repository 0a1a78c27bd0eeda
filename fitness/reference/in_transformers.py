"""Computes log-probabilities of answers with a model of transformers in this process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fittest.fitness.reference.pairs import AnsweredPair, PairLogProbabilities, pair_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.backends.transformers import Transformers


class TransformersReference:
    """Asks the model of the engine `transformers`, with its adapter, one forward pass for each answer.

    Answers are computed one by one, so that no number depends on the other answers.

    Args:
        engine: the engine; it need not be entered.
    """

    def __init__(self, engine: Transformers) -> None:
        self._engine = engine

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the engine."""
        return f"reference:{self._engine.fingerprint}"

    def log_probabilities(self, pairs: Sequence[AnsweredPair]) -> list[PairLogProbabilities | None]:
        """Returns the log-probabilities of each pair; None if one of its answers is too long for the model.

        Args:
            pairs: the chats with their answers.

        Raises:
            FittestError: the model cannot be loaded, or has no chat template.
        """
        return [self._of(pair) for pair in pairs]

    def _of(self, pair: AnsweredPair) -> PairLogProbabilities | None:
        begun, chosen, rejected = pair_tokens(self._engine.tokenizer, pair)
        context = self._engine.context
        if context is not None and max(len(chosen), len(rejected)) > context:
            return None
        return PairLogProbabilities(self._sum(chosen, begun), self._sum(rejected, begun))

    def _sum(self, tokens: list[int], begun: int) -> float:
        import torch

        # nothing predicts the very first token
        answer = tokens[max(begun, 1) :]
        if not answer:
            return 0.0
        network = self._engine.network
        with torch.inference_mode():
            read = network(
                input_ids=torch.tensor([tokens], device=network.device),
                # logits of the whole chat would take gigabytes with a large vocabulary
                logits_to_keep=len(answer) + 1,
                use_cache=False,
            )
            losses = torch.nn.functional.cross_entropy(
                read.logits[0, -len(answer) - 1 : -1].float(),
                torch.tensor(answer, device=network.device),
                reduction="none",
            )
        return -math.fsum(losses.tolist())
