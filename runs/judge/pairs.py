"""Makes pairs whose better answer is known, checks them, and writes a report that shows examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fittest.evo.errors import FittestError
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.judge.construction import Construction, Variant, construct, placed
from fittest.fitness.judge.pair import Pair
from fittest.fitness.judge.rewarding import preferred
from fittest.runs.asking import journal_at, with_engine
from fittest.runs.judge.eval import Judged, scored
from fittest.runs.output.atomic import write_json, write_text
from fittest.runs.output.places import claimed
from fittest.runs.output.together import replaced_together
from fittest.runs.parts.engines import backend_of
from fittest.runs.sources.instructions import Instruction
from fittest.runs.sources.pair_file import write_json_lines, write_pairs

if TYPE_CHECKING:
    from fittest.evo.protocols import Reward
    from fittest.evo.records import Missing
    from fittest.runs.judge.config import JudgeConfig
    from fittest.runs.output.journal import SqliteJournal

_SHOWN_CHARS = 400
"""How many characters of a text the report shows."""

_EXAMPLES = 5
_UNLIKED_BY_REWARD = "the reward does not prefer the winner"
_UNLIKED_BY_JUDGE = "the judge does not prefer the winner in both orders"


def make_pairs(
    instructions: Sequence[Instruction],
    config: JudgeConfig,
    out: Path,
    *,
    variant: Variant = "modified",
    held_out: float = 0.1,
    reward: Reward | None = None,
    judge_agrees: bool = False,
    inputs: Iterable[Path] = (),
) -> dict[str, Any]:
    """Makes a pair for each instruction; writes pairs.jsonl, held_out.jsonl, rejected.jsonl, report.md, summary.json.

    Args:
        instructions: the instructions; each gets one pair.
        config: names the engine that writes the answers, and judges them if `judge_agrees`; and the seed.
        out: the folder; its journal keeps every reply.
        variant: how losers are made.
        held_out: the share of the pairs that is kept out of training; the seed draws them.
        reward: if given, only pairs whose winner has the higher reward are kept.
        judge_agrees: whether to keep only pairs whose winner the engine prefers in both orders.
        inputs: the files that the instructions are from, which are not replaced.

    Returns:
        The content of summary.json.

    Raises:
        FittestError: no instruction gave a usable pair.
    """
    seeds, engine = SeedTree(config.judge.seed), backend_of(config.engine)
    with claimed(out, "judge pairs", inputs=inputs) as claim:
        with journal_at(out / "journal.sqlite", claim.held) as journal:
            made = with_engine(
                "replies",
                lambda ask: construct(
                    [(instruction.text, instruction.category) for instruction in instructions],
                    ask=ask, seeds=seeds, sampling=config.answers.sampling.sampling, variant=variant,
                ),
                # a winner and a loser; in two steps also the changed instruction
                engine, journal, total=len(instructions) * (3 if variant == "modified-in-two-steps" else 2),
            )  # fmt: skip
            if reward is not None:
                made = _liked_by_reward(made, reward)
            if judge_agrees:
                made = _liked_by_judge(made, config, journal)
        usable = [pair for pair in made if pair.reason is None]
        parts = _parted(usable, held_out, seeds)
        rejected = [pair for pair in made if pair.reason is not None]
        summary = {
            "engine": engine.fingerprint,
            "variant": variant,
            "instructions": len(instructions),
            **{name: len(pairs) for name, pairs in parts.items()},
            "categories": _counts(pair.category for pair in usable),
            "rejected": _counts(pair.reason for pair in rejected if pair.reason is not None),
        }
        claim.held.check()
        with replaced_together(out) as new:
            for name, pairs in parts.items():
                rows = zip(placed(pairs, seeds), pairs, strict=True)
                write_pairs(new / f"{name}.jsonl", ((pair, _more(source)) for pair, source in rows))
            write_json_lines(new / "rejected.jsonl", ({**_texts(pair), "reason": pair.reason} for pair in rejected))
            write_text(new / "report.md", _report(summary, usable, rejected))
            write_json(new / "summary.json", summary)
    # only now, when the report shows the reasons
    if not usable:
        raise FittestError(f"no pair came out of {len(instructions)} instructions; {out / 'report.md'} shows why")
    return summary


def _liked_by_reward(made: Sequence[Construction], reward: Reward) -> list[Construction]:
    usable = [pair for pair in made if pair.reason is None]
    rewards = [
        scored(reward, [pair.instruction for pair in usable], [getattr(pair, side) for pair in usable])
        for side in ("winner", "loser")
    ]
    # instructions are distinct (`read_instructions`), so they identify their pairs
    reasons = {pair.instruction: _unliked(*two) for pair, *two in zip(usable, *rewards, strict=True)}
    return [replace(pair, reason=reasons[pair.instruction]) if pair.reason is None else pair for pair in made]


def _unliked(winner: float | Missing | None, loser: float | Missing | None) -> str | None:
    return None if preferred(winner, loser) == "A" else _UNLIKED_BY_REWARD


def _liked_by_judge(made: Sequence[Construction], config: JudgeConfig, journal: SqliteJournal) -> list[Construction]:
    usable = [pair for pair in made if pair.reason is None]
    pairs = [Pair(pair.instruction, pair.winner, pair.loser, "A", pair.category) for pair in usable]
    verdicts = Judged.by_engine(pairs, config, journal).verdicts
    liked = {
        pair.instruction
        for pair, verdict in zip(usable, verdicts, strict=True)
        if (verdict.ab, verdict.ba) == ("A", "B")
    }
    return [
        replace(pair, reason=_UNLIKED_BY_JUDGE) if pair.reason is None and pair.instruction not in liked else pair
        for pair in made
    ]


def _parted(usable: Sequence[Construction], share: float, seeds: SeedTree) -> dict[str, list[Construction]]:
    """Draws the pairs to hold out: at least one if `share` is above 0, and never all of them."""
    count = len(usable)
    order = seeds.generator(Stream.PAIR, 2).permutation(count)
    wanted = max(1, round(count * share)) if share else 0
    outside = set(order[: max(0, min(wanted, count - 1))].tolist())
    return {
        "pairs": [pair for place, pair in enumerate(usable) if place not in outside],
        "held_out": [pair for place, pair in enumerate(usable) if place in outside],
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _texts(pair: Construction) -> dict[str, str]:
    return {
        "instruction": pair.instruction,
        "category": pair.category,
        "modified_instruction": pair.modified,
        "winner": pair.winner,
        "loser": pair.loser,
    }


def _more(pair: Construction) -> dict[str, Any]:
    return {"modified_instruction": pair.modified, "alike": round(pair.alike, 4)}


def _report(summary: dict[str, Any], usable: Sequence[Construction], rejected: Sequence[Construction]) -> str:
    lines = [
        "# Synthetic pairs",
        "",
        f"{summary['instructions']} instructions, variant `{summary['variant']}`:"
        f" {summary['pairs']} pairs to train on, {summary['held_out']} held out.",
        "",
        *(f"- left out, {reason}: {count}" for reason, count in summary["rejected"].items()),
        "",
    ]
    for number, pair in enumerate(usable[:_EXAMPLES], 1):
        lines += [f"## Pair {number}, {pair.alike:.0%} alike", "", *_shown(pair)]
    seen: set[str | None] = set()
    for pair in rejected:
        if pair.reason not in seen:
            seen.add(pair.reason)
            lines += [f"## Left out: {pair.reason}", "", *_shown(pair)]
    return "\n".join(lines)


def _shown(pair: Construction) -> list[str]:
    """Returns the texts as block quotations, which any Markdown inside them cannot leave."""
    lines: list[str] = []
    for title, text in _texts(pair).items():
        if text:
            short = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
            lines += [f"{title.replace('_', ' ')}:", "", *(f"> {line}" for line in short.splitlines()), ""]
    return lines
