"""Token likelihoods from a causal language model in transformers: a hub name, a folder, or a GGUF file dequantised."""

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
    """Losses of texts under a causal language model, one forward pass for each, so that none depends on its company.

    Texts are never truncated. A text alone begins as the tokenizer begins a text: where it sets no begin-of-text
    token, nothing predicts the first token, which is then left out of the mean. What the chat template puts after an
    answer is not counted. Each (context, text) is measured once.

    Args:
        model: a folder, a .gguf file, or a name on the hub.
        device: a torch device, or "auto" for the accelerator when there is one.
        dtype: what the weights are computed in, by torch's name.

    Attributes:
        too_long: how many distinct (context, text) were longer than the model reads, and are NaN.
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
        """`transformers:`, the SHA-256 of the file or folder (16 hex digits) or name and commit, and the dtype."""
        return f"transformers:{pretrained_id(self._name)}:{self._dtype}"

    def losses(self, contexts: Sequence[str | None], texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean negative log-likelihood per token of each text, shape (texts,), as `TokenLikelihood` says.

        Raises:
            FittestError: the model cannot be loaded, or has no chat template to put a context in.
        """
        return np.array([self._loss(*pair) for pair in zip(contexts, texts, strict=True)], dtype=np.float64)

    def _loss(self, context: str | None, text: str) -> float:
        if (context, text) not in self._known:
            self._known[context, text] = self._measure(self._text.opening(context), self._text.encode(text))
        return self._known[context, text]

    def _measure(self, opening: list[int], tokens: list[int]) -> float:
        """Mean loss of the tokens, after an opening that is not counted."""
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
