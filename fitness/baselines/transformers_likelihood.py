"""Measures token likelihoods with a causal language model in transformers."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fittest.evo.pretrained.device import torch_device
from fittest.evo.pretrained.loading import context_length, load_pretrained, pretrained_id
from fittest.fitness.baselines.chat_tokens import ChatTokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class TransformersLikelihood:
    """Measures the losses of texts, one forward pass for each, so that no loss depends on the other texts.

    Texts are never truncated. A text alone begins as the tokenizer begins a text; if it sets no begin-of-text token,
    nothing predicts the first token, which is then left out of the mean. What the chat template puts after an answer
    is not counted. Each (context, text) is measured once.

    Args:
        model: a folder, a .gguf file (dequantised), or a name on the hub.
        device: a torch device, or "auto", which prefers an accelerator.
        dtype: the precision of the weights, by torch's name.

    Attributes:
        too_long: the number of distinct (context, text) that were longer than the model reads; their losses are NaN.
    """

    def __init__(self, model: str | Path, *, device: str = "auto", dtype: str = "float32") -> None:
        self.too_long = 0
        self._name = str(model)
        self._device = device
        self._dtype = dtype
        self._text = ChatTokens(self._name)
        self._known: dict[tuple[str | None, str], float] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Joins `transformers:`, 16 hex digits over the file or folder or else name and commit, and the dtype."""
        return f"transformers:{pretrained_id(self._name)}:{self._dtype}"

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns the mean negative log-likelihood per token of each text, in nats, shape (texts,).

        Args:
            contexts: the user message that each text answers, or None for a text alone.
            texts: the texts to measure.

        Returns:
            The losses; NaN for a text that has no token to predict, or that with its context is longer than the model
            reads.

        Raises:
            FittestError: the model cannot be loaded, or there is a context and no chat template.
        """
        return np.array([self._loss(*row) for row in zip(contexts, texts, strict=True)], dtype=np.float64)

    def _loss(self, context: str | None, text: str) -> float:
        if (context, text) not in self._known:
            self._known[context, text] = self._measure(self._text.opening(context), self._text.encode(text))
        return self._known[context, text]

    def _measure(self, opening: list[int], tokens: list[int]) -> float:
        """Measures the mean loss of the tokens, after an opening that is not counted."""
        import torch

        if self._context_length is not None and len(opening) + len(tokens) > self._context_length:
            self.too_long += 1
            return math.nan
        predicted = tokens if opening else tokens[1:]
        if not predicted:
            return math.nan
        device = self._model.device
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.tensor([opening + tokens], device=device),
                # logits of the whole text would take gigabytes with a large vocabulary
                logits_to_keep=len(predicted) + 1,
                use_cache=False,
            )
            losses = torch.nn.functional.cross_entropy(
                output.logits[0, -len(predicted) - 1 : -1].float(),
                torch.tensor(predicted, device=device),
                reduction="none",
            )
        return math.fsum(losses.tolist()) / len(predicted)

    @cached_property
    def _context_length(self) -> int | None:
        return context_length(self._model.config)

    @cached_property
    def _model(self) -> Any:
        import torch

        dtype = getattr(torch, self._dtype)
        return load_pretrained("AutoModelForCausalLM", self._name, dtype=dtype).to(torch_device(self._device)).eval()
