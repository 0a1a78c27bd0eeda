"""Measures token likelihoods with vLLM, for models that are too large or too slow for transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fittest.evo.backends.vllm_arguments import (
    check_names,
    error_line,
    fingerprint_of,
    require_vllm,
    suited_to_platform,
)
from fittest.evo.errors import FittestError
from fittest.fitness.baselines.chat_tokens import ChatTokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class VllmLikelihood:
    """Measures the losses of texts under a model that vLLM runs, in the precision in which it runs it.

    Except for rounding, the losses are those of `TransformersLikelihood`. A text and its context must leave room for
    one more token, since vLLM always writes one. The model is loaded at the first loss and freed when the context is
    left; a later loss loads it again.

    Args:
        model: a folder of safetensors, or a name on the Hugging Face hub.
        engine_args: further arguments of vLLM's engine by name.

    Attributes:
        too_long: the number of texts that were longer than the model reads; their losses are NaN.

    Raises:
        FittestError: vLLM is not installed, or does not know an argument.
    """

    def __init__(self, model: str, *, engine_args: Mapping[str, Any] | None = None) -> None:
        require_vllm()
        check_names(engine_args or {})
        self.too_long = 0
        self.fingerprint = fingerprint_of(model, None, engine_args or {})
        self._model = model
        self._arguments = {"use_tqdm_on_load": False, **(engine_args or {})}
        self._text = ChatTokens(model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        engine = self.__dict__.pop("_engine", None)
        if engine is not None:
            engine.llm_engine.engine_core.shutdown(timeout=30.0)

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
        rows = [
            (self._text.opening(context), self._text.encode(text))
            for context, text in zip(contexts, texts, strict=True)
        ]
        measurable = [position for position, (opening, tokens) in enumerate(rows) if self._measurable(opening, tokens)]
        losses = np.full(len(rows), np.nan)
        found = self.prompt_logprobs([opening + tokens for opening, tokens in map(rows.__getitem__, measurable)])
        for position, logprobs in zip(measurable, found, strict=True):
            losses[position] = _mean_loss(logprobs, *rows[position])
        return losses

    def _measurable(self, opening: list[int], tokens: list[int]) -> bool:
        """Tells whether there is a token to predict, and room for all of them."""
        too_long = len(opening) + len(tokens) >= self.context
        self.too_long += too_long
        return bool(tokens if opening else tokens[1:]) and not too_long

    @property
    def context(self) -> int:
        """Returns how many tokens the model reads and writes together; the model is loaded to find out."""
        return int(self._engine.llm_engine.model_config.max_model_len)

    @property
    def tokenizer(self) -> Any:
        """Returns the model's tokenizer."""
        return self._text.tokenizer

    def prompt_logprobs(self, prompts: list[list[int]]) -> list[Any]:
        """Asks vLLM for the log-probability of each token of each prompt.

        Args:
            prompts: tokens, each list shorter than `context`.

        Returns:
            For each prompt a list over its tokens: None for the first, and a mapping from the token to its number.
        """
        from vllm import SamplingParams

        # 0 alternatives at each place: vLLM then gives the log-probability of the token itself alone
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._engine.generate(inputs, parameters, use_tqdm=False) if inputs else []
        return [output.prompt_logprobs for output in outputs]

    @cached_property
    def _engine(self) -> Any:
        from vllm import LLM

        try:
            return LLM(self._model, **suited_to_platform(self._arguments))
        except Exception as error:  # any error here comes from the user's model, arguments or machine
            raise FittestError(f"{self._model}: not loaded by vLLM ({error_line(error)})") from error


def _mean_loss(logprobs: Any, opening: list[int], tokens: list[int]) -> float:
    """Averages over the tokens after the opening; nothing predicts the very first token."""
    first = len(opening) or 1
    predicted = (opening + tokens)[first:]
    losses = [-logprobs[place][token].logprob for place, token in enumerate(predicted, start=first)]
    return math.fsum(losses) / len(losses)
