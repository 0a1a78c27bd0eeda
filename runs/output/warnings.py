"""Says what a reader should know before trusting the tables of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fittest.evo.evolution import Evolution
    from fittest.evo.prompt import Prompt
    from fittest.evo.state import Generation
    from fittest.runs.output.responses import ResponseCounts


def run_warnings(
    evolution: Evolution, responses: ResponseCounts, *, scored: Mapping[int, int], of_generations: Sequence[str]
) -> list[str]:
    """Returns what a reader should know before trusting the tables.

    Args:
        evolution: the run so far.
        responses: counts of the responses of its finished generations.
        scored: how many of their prompts have each number of scored responses.
        of_generations: what `warnings_of_generation` says of each of them.
    """
    found = [
        *evolution.state.notes,
        *evolution.notes_of_servers,
        *evolution.cells.notes,
        *evolution.breeder.shares.notes,
    ]
    answered, truncated = responses.answered, responses.truncated
    if responses.drawn and not responses.rewarded:
        ((reason, count),) = responses.missing.most_common(1)
        found.append(f"no response got a reward, so no prompt has metrics ({count} of {responses.drawn}: {reason})")
    # a length that max_tokens cut off is only a lower bound of m2
    if truncated * 2 > answered:
        found.append(
            f"{truncated} of {answered} responses were cut at max_tokens, so m2 is censored; raise"
            " engine.sampling.max_tokens"
        )
    # a template that opens the reasoning leaves no trace in a reply that was cut before it closed it
    if responses.reasoned and responses.cut_before_reasoning:
        found.append(
            f"{responses.cut_before_reasoning} responses were cut at max_tokens without any reasoning, which"
            f" {responses.reasoned} others have; if they were cut inside it, set engine.begins_in_reasoning = true"
        )
    if answered and not evolution.feeder.traffic.total.tokens:
        found.append(
            "the engine counts no tokens: caps on tokens and cost cannot hold; cap max_requests or max_seconds"
        )
    if len(scored) > 1:
        counts = ", ".join(f"{count} with {n}" for n, count in sorted(scored.items()))
        found.append(f"prompts differ in their number of scored responses ({counts}); their metrics do not compare")
    found += of_generations
    found += [
        f"generation {generation.number}: none of {generation.record['evaluated']} prompts survived"
        for generation in evolution.state.finished
        if generation.record["evaluated"] and not generation.record["passed"]
    ]
    found += [
        f"generation {number}: {rate:.0%} of the offspring passed, so the cuts hardly select any more; policy"
        ' "tightening", "annealed" or "per-generation" goes on selecting'
        for number, rate in _easy_generations(evolution.logbook)
    ]
    if len(evolution.state.finished) > 1 and not evolution.state.survivors:
        found.append("no prompt survived; exemplars are the best of those that failed")
    return found


def warnings_of_generation(generation: Generation) -> list[str]:
    """Returns what a reader should know of the gates and the cuts of one generation."""
    return [*_warnings_of_gates(generation), *_warnings_of_cuts(generation)]


_GATED_FOR_ALARM = 0.9
"""When gates eat more than this share of a generation, something is wrong with the proposals or the gates."""

_EASY_PASS_RATE = 0.9
"""Cuts that this share of offspring passes have stopped selecting; in the paper 94 % passed (Table 10)."""

_FEWEST_FOR_ALARM = 8
"""With fewer prompts, a high share may be chance."""


def _warnings_of_gates(generation: Generation) -> Iterator[str]:
    """Warns when hardly a candidate passed the gates, and when all that were proposed failed in the same way."""
    candidates, number = generation.candidates, generation.number
    gated = [prompt for prompt in candidates if prompt.gate is not None]
    kind = "proposals" if number else "human prompts"
    failures = {(prompt.gate, prompt.gate_reason) for prompt in gated}
    if len(gated) == len(candidates) > 1 and len(failures) == 1:
        ((gate, reason),) = failures
        yield f"generation {number}: all {len(gated)} {kind} failed alike, at gate {gate}: {reason}"
    elif len(gated) > _GATED_FOR_ALARM * len(candidates):
        by_gate = ", ".join(f"{gate} {count}" for gate, count in Counter(p.gate for p in gated).most_common())
        yield f"generation {number}: gates turned away {len(gated)} of {len(candidates)} {kind} ({by_gate})"


def _warnings_of_cuts(generation: Generation) -> Iterator[str]:
    """Warns of cuts that no human prompt failed: they select nothing, whatever the tables say about pass rates."""
    scored = [prompt for prompt in generation.candidates if prompt.metrics is not None or prompt.eliminated]
    if generation.number or len(scored) < _FEWEST_FOR_ALARM:
        return
    # a quantile of 0 is a user's way to cut nothing
    if generation.thresholds.quantile == 0:
        return
    failed = {name for prompt in scored for name in prompt.failed_metrics}
    for name in generation.thresholds.ranges():
        if name not in failed:
            yield f"the cut on {name} cuts nothing: all {len(scored)} scored prompts of the pool pass it"


def _easy_generations(logbook: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Returns (generation, pass rate) of each generation whose offspring passed so easily that nothing is selected."""
    return [
        (record["generation"], record["pass_rate"])
        for record in logbook
        if record["generation"] and record["evaluated"] >= _FEWEST_FOR_ALARM and record["pass_rate"] >= _EASY_PASS_RATE
    ]


def race_audit(evaluated: Sequence[Prompt], confidence: float) -> dict[str, Any]:
    """Counts what the confidence rule dropped, and how often it was wrong on prompts that were sampled all the same.

    Args:
        evaluated: all prompts that were sampled.
        confidence: the rule's confidence.

    Returns:
        confidence; dropped, the prompts that the rule stopped; would_drop, the audited prompts that it would have
        stopped; wrongly and wrong_share, the number and the share of those that survived.
    """
    return audit_of(count_race(evaluated), confidence)


def count_race(evaluated: Sequence[Prompt]) -> Counter[str]:
    """Counts `dropped`, `would_drop` and `wrongly`, as `race_audit` tells them, of some of the prompts."""
    unlikely = [p for p in evaluated if p.elimination is not None and p.elimination.by == "confidence"]
    would_drop = [p for p in unlikely if not p.eliminated]
    return Counter(
        dropped=len(unlikely) - len(would_drop),
        would_drop=len(would_drop),
        wrongly=sum(prompt.survived for prompt in would_drop),
    )


def audit_of(counts: Mapping[str, int], confidence: float) -> dict[str, Any]:
    """Returns what `race_audit` returns, from its counts."""
    dropped, would_drop, wrongly = (counts[name] for name in ("dropped", "would_drop", "wrongly"))
    return {
        "confidence": confidence,
        "dropped": dropped,
        "would_drop": would_drop,
        "wrongly": wrongly,
        "wrong_share": wrongly / would_drop if would_drop else None,
    }


def audit_warnings(summary: dict[str, Any]) -> list[str]:
    """Warns that prompts were dropped on a guess, and says how good the guess was.

    Args:
        summary: holds the result of `race_audit` as `race`, if the rule was used.
    """
    race = summary.get("race")
    if not race or not race["dropped"]:
        return []
    audit = (
        f"{race['wrongly']} of {race['would_drop']} that it would have dropped in the audit survived"
        if race["would_drop"]
        else "the audit met none of its cases"
    )
    said = [f"race_confidence dropped {race['dropped']} prompts that might have survived; {audit}"]
    if race["wrong_share"] is not None and race["wrong_share"] > 1 - race["confidence"]:
        said.append(
            f"race_confidence = {race['confidence']:g} does not hold here: {race['wrong_share']:.0%} of its audited"
            " cases survived; raise it, or leave it out"
        )
    return said
