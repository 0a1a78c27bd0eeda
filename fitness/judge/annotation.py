"""Makes training judgments by rejection sampling: of a judge's samples, one that agrees with the label is kept.

This is the method of Self-Taught Evaluators (arXiv 2408.02666, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from fittest.evo.records import Completion
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.judging import conversation
from fittest.fitness.judge.likelihood import closed
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.verdict import Side, marked, parse_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fittest.evo.records import Failure

_NONE_CORRECT = "no judgment agrees with the label"
_BALANCE = "left out so that A and B win equally often"


@dataclass(frozen=True, slots=True)
class Judgment:
    """Holds one sampled judgment of a pair in order AB; `forced` says that it had no verdict, and one was drawn."""

    text: str
    verdict: Side | None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Annotated:
    """Holds a pair with its judgments, and says which of them are trained on.

    Attributes:
        pair: the pair, with its label.
        judgments: all judgments that were sampled.
        kept: the position of the judgment to learn from; None if no judgment agrees with the label.
        opposed: the position of a wrong judgment for preference training; None if no judgment is wrong.
        dropped: why the pair is not trained on; None if it is.
    """

    pair: Pair
    judgments: Sequence[Judgment]
    kept: int | None
    opposed: int | None
    dropped: str | None = None

    @property
    def agreeing(self) -> int:
        """Returns the number of judgments that agree with the label."""
        return sum(judgment.verdict == self.pair.label for judgment in self.judgments)

    @classmethod
    def draw(cls, pair: Pair, judgments: Sequence[Judgment], *, seeds: SeedTree, iteration: int) -> Self:
        """Draws one judgment that agrees with the label, and one wrong one; a judgment without a verdict is neither.

        Args:
            pair: the pair, with its label.
            judgments: the judgments of the pair in order AB.
            seeds: the seed tree; the draw depends on pair and iteration alone.
            iteration: the number of the training iteration.
        """
        rng = seeds.generator(Stream.ANNOTATION, 1, int(pair.pair_id, 16), iteration)
        right = [place for place, judgment in enumerate(judgments) if judgment.verdict == pair.label]
        wrong = [place for place, judgment in enumerate(judgments) if judgment.verdict not in (pair.label, None)]
        # always two numbers, so that neither choice depends on whether the other was possible
        first, second = rng.random(2)
        return cls(
            pair,
            judgments,
            kept=right[int(first * len(right))] if right else None,
            opposed=wrong[int(second * len(wrong))] if wrong else None,
            dropped=None if right else _NONE_CORRECT,
        )


def evenly_placed(pairs: Sequence[Pair], seeds: SeedTree) -> list[Pair]:
    """Swaps the answers of some pairs, drawn by seed, so that A and B win equally often.

    Files of chosen and rejected answers name the chosen one first. A judge that only ever saw A win would learn that.

    Args:
        pairs: the pairs, each with a label.
        seeds: the seed tree.
    """
    sides = [[place for place, pair in enumerate(pairs) if pair.label == side] for side in ("A", "B")]
    fewer, more = sorted(sides, key=len)
    picks = seeds.generator(Stream.PAIR, 3).permutation(len(more))[: (len(more) - len(fewer)) // 2]
    turned = {more[int(pick)] for pick in picks}
    return [
        Pair(pair.instruction, pair.response_b, pair.response_a, pair.expected("BA"), pair.subset)
        if place in turned
        else pair
        for place, pair in enumerate(pairs)
    ]


def judgments_of(
    replies: Sequence[Completion | Failure],
    *,
    log_odds: Callable[[str], float] | None,
    draws: Sequence[float],
    temperature: float = 1.0,
) -> list[Judgment]:
    """Returns the judgments in the replies about one pair; `log_odds` gives a verdict to those that have none.

    Args:
        replies: the replies to requests of one order.
        log_odds: gives the log-odds of A after a judgment so far and `[[`; None leaves judgments without a verdict.
        draws: a number in [0, 1) for each reply, by which a forced verdict is drawn.
        temperature: the temperature of a forced verdict, that of the judgments themselves; 0 takes the likelier one.
    """
    found = []
    for reply, draw in zip(replies, draws, strict=True):
        text = reply.text if isinstance(reply, Completion) else ""
        verdict = parse_verdict(text)
        # a text that holds "[[" has marked something, so a forced verdict after it could contradict it
        if verdict is None and log_odds is not None and "[[" not in text and isinstance(reply, Completion):
            found.append(_forced(text, log_odds(text), draw, temperature))
        else:
            found.append(Judgment(text, verdict))
    return found


def _forced(text: str, odds: float, draw: float, temperature: float) -> Judgment:
    if math.isnan(odds):
        return Judgment(text, None)
    scaled = math.copysign(math.inf, odds) if temperature == 0 else odds / temperature
    # math.exp overflows beyond 709, where the chance is 0 in any case
    chance = 1 / (1 + math.exp(-scaled)) if scaled > -700 else 0.0
    side: Side = "A" if draw < chance else "B"
    return Judgment(f"{closed(text)}{marked(side)}", side, forced=True)


def balanced(rows: Sequence[Annotated], *, seeds: SeedTree, iteration: int) -> list[Annotated]:
    """Drops pairs, drawn by seed from the larger side, until A and B win equally often."""
    sides = {
        side: [place for place, row in enumerate(rows) if row.dropped is None and row.pair.label == side]
        for side in ("A", "B")
    }
    size = min(map(len, sides.values()))
    rng = seeds.generator(Stream.ANNOTATION, 2, iteration)
    out: set[int] = set()
    for places in sides.values():
        out |= {places[int(pick)] for pick in rng.permutation(len(places))[size:]}
    return [replace(row, dropped=_BALANCE) if place in out else row for place, row in enumerate(rows)]


def training_rows(rows: Sequence[Annotated]) -> list[dict[str, Any]]:
    """Returns the pairs that are trained on, in TRL's conversational form of prompts with completions."""
    return [
        {
            "pair_id": row.pair.pair_id,
            "subset": row.pair.subset,
            "label": row.pair.label,
            "forced": row.judgments[row.kept].forced,
            "prompt": _turns(row.pair),
            "completion": [{"role": "assistant", "content": row.judgments[row.kept].text.strip()}],
        }
        for row in rows
        if row.dropped is None and row.kept is not None
    ]


def contrasting_rows(rows: Sequence[Annotated]) -> list[dict[str, Any]]:
    """Returns the pairs that also have a wrong judgment, in TRL's conversational form of preferences."""
    return [
        {
            "pair_id": row.pair.pair_id,
            "label": row.pair.label,
            "prompt": _turns(row.pair),
            "chosen": [{"role": "assistant", "content": row.judgments[row.kept].text.strip()}],
            "rejected": [{"role": "assistant", "content": row.judgments[row.opposed].text.strip()}],
        }
        for row in rows
        if row.dropped is None and row.kept is not None and row.opposed is not None
    ]


def agreement(rows: Sequence[Annotated]) -> Mapping[str, Any]:
    """Measures how far the judge agrees with the labels, over all pairs and by category.

    Args:
        rows: the annotated pairs.

    Returns:
        `agreement` is the share of all judgments, including unreadable ones, whose verdict is the label; `readable`
        is the share that has a verdict, and `unforced` the share that came to a verdict by itself. `trained_on` and
        `dropped` count pairs, `by_category` holds the same shares for each category.
    """
    groups = dict.fromkeys(row.pair.subset for row in rows)
    return {
        **_shares(rows),
        "trained_on": sum(row.dropped is None for row in rows),
        "dropped": {reason: sum(row.dropped == reason for row in rows) for reason in (_NONE_CORRECT, _BALANCE)},
        "by_category": {name: _shares([row for row in rows if row.pair.subset == name]) for name in groups if name},
    }


def _shares(rows: Sequence[Annotated]) -> dict[str, float | int]:
    judgments = [judgment for row in rows for judgment in row.judgments]
    count = max(len(judgments), 1)
    return {
        "pairs": len(rows),
        "judgments": len(judgments),
        "agreement": sum(row.agreeing for row in rows) / count,
        "readable": sum(judgment.verdict is not None for judgment in judgments) / count,
        "unforced": sum(judgment.verdict is not None and not judgment.forced for judgment in judgments) / count,
    }


def _turns(pair: Pair) -> list[dict[str, str]]:
    return [message._asdict() for message in conversation(pair, "AB")]
