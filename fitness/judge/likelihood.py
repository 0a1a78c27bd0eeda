"""A verdict from probabilities: how much likelier A is than B once a judgment is closed with `[[`.

It asks no judgment of the model, so it also measures models that are too small to keep to the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from evo.pretrained import chat_tokens
from fitness.judge.judging import conversation
from fitness.judge.verdict import ORDERS, Side, Verdicts, marked

if TYPE_CHECKING:
    from evo.records import Message
    from fitness.judge.pair import Pair
    from fitness.judge.verdict import Order


class VerdictModel(Protocol):
    """A model that tells how likely each verdict is."""

    @property
    def fingerprint(self) -> str:
        """Identifies the model; log-odds are kept under it."""
        ...

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """Log P(A) − log P(B) after the judgment so far and `[[`; NaN where that is longer than the model reads."""
        ...


class TransformersVerdicts:
    """Verdict probabilities of a causal model of transformers.

    Args:
        engine: has the model and its tokenizer, as `evo.backends.transformers.Transformers` does.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @property
    def fingerprint(self) -> str:
        """That of the engine."""
        return str(self._engine.fingerprint)

    def log_odds(self, pair: Pair, order: Order, begun: str = "") -> float:
        """As `VerdictModel` says."""
        engine = self._engine
        return verdict_log_odds(engine.network, engine.tokenizer, conversation(pair, order), begun, engine.context)


def verdict_log_odds(
    network: Any, tokenizer: Any, messages: tuple[Message, ...], begun: str = "", context: int | None = None
) -> float:
    """Log P(A) − log P(B) of the verdict's first token that tells them apart; one forward pass.

    Args:
        network: a causal model.
        tokenizer: with a chat template.
        messages: what the judge is shown.
        begun: the judgment so far.
        context: tokens that the model reads; NaN where there are more.
    """
    import torch

    a, b = (chat_tokens(tokenizer, messages, closed(begun) + marked(side)) for side in ("A", "B"))
    # told apart by tokens, for a tokenizer may well join the letter to a bracket
    common = next(place for place, (one, two) in enumerate(zip(a, b, strict=False)) if one != two)
    if context is not None and common > context:
        return float("nan")
    with torch.inference_mode():
        logits = network(
            input_ids=torch.tensor([a[:common]], device=network.device), logits_to_keep=1, use_cache=False
        ).logits[0, -1]
    return float(logits[a[common]].double() - logits[b[common]].double())


def closed(begun: str) -> str:
    """A judgment up to the place where its verdict comes; the verdict stands on a line of its own."""
    return f"{begun.rstrip()}\n\n" if begun.strip() else ""


def likelier(log_odds: float) -> Side | None:
    """The likelier verdict; None where both are equally likely, or nothing is known."""
    return "A" if log_odds > 0 else "B" if log_odds < 0 else None


def likelihood_verdicts(model: VerdictModel, pair: Pair) -> Verdicts:
    """The likelier verdict in both orders, with no reasoning before it."""
    return Verdicts(*(likelier(model.log_odds(pair, order)) for order in ORDERS))
