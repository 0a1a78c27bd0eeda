"""Computes perplexity and instruction-following difficulty (IFD) of the chosen response from token likelihoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class TokenLikelihood(Protocol):
    """Describes a model that can say how likely a given text is; an engine that only generates has no `losses`."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model and everything else that changes a loss; losses are stored under it."""
        ...

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the mean negative log-likelihood of each text, in nats per token of the text, shape (texts,).

        Args:
            contexts: the user message that each text answers, set in the model's chat template; None for a text alone.
            texts: the texts to measure.

        Returns:
            The losses; NaN for a text that has no token to predict, or that with its context is longer than the model
            reads.
        """
        ...


def perplexity(model: TokenLikelihood, prompts: Sequence[str], chosen: Sequence[str | None]) -> NDArray[np.float64]:
    """Returns the perplexity of the chosen response as an answer to its prompt; the filter keeps high ones.

    Source: arXiv 2501.18578, appendix A.5.

    Args:
        model: measures the losses; in the paper it is the model that answered.
        prompts: the prompts, shape (prompts,).
        chosen: the best response of each prompt, None where it is missing, shape (prompts,).

    Returns:
        exp(loss given the prompt), at least 1, shape (prompts,); NaN where the response is None, empty or too long.
    """
    perplexities: NDArray[np.float64] = np.exp(_losses(model, prompts, chosen))
    return perplexities


def ifd(model: TokenLikelihood, prompts: Sequence[str], chosen: Sequence[str | None]) -> NDArray[np.float64]:
    """Returns the instruction-following difficulty: how little the prompt helps to predict its chosen response.

    It is the loss given the prompt over the loss without it (arXiv 2308.12032; arXiv 2501.18578, appendix A.5), so the
    prompt helps where it is below 1.

    Args:
        model: measures the losses; in the paper it is the model that answered.
        prompts: the prompts, shape (prompts,).
        chosen: the best response of each prompt, None where it is missing, shape (prompts,).

    Returns:
        Ratios, shape (prompts,); NaN where either loss is missing, or the response is certain without the prompt.
    """
    conditioned = _losses(model, prompts, chosen)
    alone = _losses(model, [None] * len(prompts), chosen)
    ratios = np.full(len(conditioned), np.nan)
    np.divide(conditioned, alone, out=ratios, where=alone > 0)
    return ratios


def _losses(
    model: TokenLikelihood, contexts: Sequence[str | None], chosen: Sequence[str | None]
) -> NDArray[np.float64]:
    """Measures the losses of the responses that hold some text; the others get NaN."""
    there = [
        (position, context, text)
        for position, (context, text) in enumerate(zip(contexts, chosen, strict=True))
        if text
    ]
    losses = np.full(len(chosen), np.nan)
    if there:
        positions, some_contexts, texts = zip(*there, strict=True)
        losses[list(positions)] = model.losses(some_contexts, texts)
    return losses
