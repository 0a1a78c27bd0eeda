"""Takes a verdict from probabilities: how much likelier A is than B once a judgment is closed with `[[`.

The model has to write no judgment, so this also measures models that are too small to keep to the form.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from fittest.evo.pretrained.chats import chat_tokens
from fittest.fitness.judge.judging import conversation
from fittest.fitness.judge.verdict import ORDERS, Side, Verdicts, marked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fittest.evo.records import Message
    from fittest.fitness.judge.pair import Pair
    from fittest.fitness.judge.verdict import Order


class VerdictModel(Protocol):
    """Describes a model that tells how likely each verdict is."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model; log-odds are stored under it."""
        ...

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """Returns log P(A) − log P(B) after the judgment so far and `[[`; NaN if it is longer than the model reads."""
        ...


class TransformersVerdicts:
    """Measures verdict probabilities with a causal model of transformers.

    Args:
        engine: holds the model and its tokenizer, as `fittest.evo.backends.transformers.Transformers` does.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._question: _Question | None = None

    @property
    def fingerprint(self) -> str:
        """Returns the fingerprint of the engine."""
        return str(self._engine.fingerprint)

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """Returns log P(A) − log P(B) after the judgment so far and `[[`; NaN if it is longer than the model reads."""
        engine, shown = self._engine, conversation(pair, order)
        if not begun:
            return verdict_log_odds(engine.network, engine.tokenizer, shown, context=engine.context)
        # the judgments of one pair come one after the other, so the pair is read once for all of them
        if self._question is None or self._question.messages != shown:
            self._question = _Question(engine.network, engine.tokenizer, shown)
        return verdict_log_odds(engine.network, engine.tokenizer, shown, begun, engine.context, self._question)


class _Question:
    """Holds what a judge is shown, which it reads once, however many judgments of it are measured."""

    def __init__(self, network: Any, tokenizer: Any, messages: tuple[Message, ...]) -> None:
        self.messages = messages
        # without the last token, which may be joined to what follows
        self.tokens = chat_tokens(tokenizer, messages)[:-1]
        self._network = network

    @cached_property
    def state(self) -> Any:
        """Returns the model's keys and values after the tokens, computed on first use."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([self.tokens], device=self._network.device)
            return self._network(input_ids=ids, logits_to_keep=1, use_cache=True).past_key_values


def verdict_log_odds(
    network: Any,
    tokenizer: Any,
    messages: tuple[Message, ...],
    begun: str = "",
    context: int | None = None,
    question: _Question | None = None,
) -> float:
    """Returns log P(A) − log P(B) at the first token that tells the verdicts apart, with one forward pass.

    Args:
        network: a causal model.
        tokenizer: its tokenizer, which needs a chat template.
        messages: what the judge is shown.
        begun: the judgment so far.
        context: the most tokens that the model reads; None if it has no bound.
        question: the messages after one reading, where several judgments of them are measured.

    Returns:
        The log-odds; NaN if the judgment is longer than the model reads.
    """
    import torch

    a, b = (chat_tokens(tokenizer, messages, closed(begun) + marked(side)) for side in ("A", "B"))
    # compared by tokens, since a tokenizer may join the letter to a bracket
    common = next(place for place, (one, two) in enumerate(zip(a, b, strict=False)) if one != two)
    if context is not None and common > context:
        return float("nan")
    read, state = 0, None
    if question is not None and a[: len(question.tokens)] == question.tokens:
        # a copy, since not every kind of state can be cut back to its former length
        read, state = len(question.tokens), deepcopy(question.state)
    with torch.inference_mode():
        logits = network(
            input_ids=torch.tensor([a[read:common]], device=network.device),
            past_key_values=state,
            logits_to_keep=1,
            use_cache=state is not None,
        ).logits[0, -1]
    return float(logits[a[common]].double() - logits[b[common]].double())


def closed(begun: str) -> str:
    """Returns a judgment up to the place of its verdict, which is on a line of its own."""
    return f"{begun.rstrip()}\n\n" if begun.strip() else ""


def _likelier(log_odds: float) -> Side | None:
    """Returns the likelier verdict; None if both are equally likely, or nothing is known."""
    return "A" if log_odds > 0 else "B" if log_odds < 0 else None


def likelihood_verdicts(model: VerdictModel, pair: Pair) -> Verdicts:
    """Returns the likelier verdict in both orders, with no reasoning before it."""
    return verdicts_of([model.log_odds(pair, order) for order in ORDERS])


def verdicts_of(log_odds: Sequence[float]) -> Verdicts:
    """Returns the verdicts that follow from the log-odds of the first place, shape (2,), in order AB and BA."""
    ab, ba = log_odds
    # in order BA the first place holds the pair's second answer; a liking for the first place cancels out
    margin = (ab - ba) / 2
    return Verdicts(_likelier(ab), _likelier(ba), None if math.isnan(margin) else margin)
