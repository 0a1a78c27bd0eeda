"""Raises alarms at what goes wrong while a run's own figures improve (docs/audit.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fittest.fitness.trends import trend_of

if TYPE_CHECKING:
    from fittest.fitness.trends import Moments
    from fittest.runs.output.audit_book import AuditBook, Figures

_CHANCE = 0.01
"""A trend that is less likely than this without any cause is beyond noise; a run is looked at in a few ways."""

_NOTABLE = 0.1
"""Answers that grow, or a population that narrows, by less than this share are not worth an alarm."""

_FEWEST_ALIKE = 5
_SHARE_ALIKE = 0.1
"""So many survivors, and such a share of them, with one best answer are no chance."""


def alarms(book: AuditBook, logbook: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns what was seen, in numbers, of a reward that is hacked, answers that grow, and prompts that grow alike.

    Args:
        book: the figures of all sealed generations.
        logbook: its lines; of a run that measures breadth at equal size they hold `vendi_equal`.
    """
    return [*_hacking(book.figures), *_growing(book), *_narrowing(logbook), *_one_text(book), *_no_audit(book)]


def _hacking(figures: Sequence[Figures]) -> Iterator[str]:
    """Tells that the reward rises while the audit falls, among the generations that one reward has judged."""
    comparable = [one for one in figures if one.reward_id == figures[-1].reward_id]
    rewards = {one.number: one.early_reward for one in comparable}
    audits = {one.number: one.early_audit for one in comparable}
    reward, audit = trend_of(rewards), trend_of(audits)
    if reward is None or audit is None or reward.rises >= _CHANCE or audit.falls >= _CHANCE:
        return
    yield (
        f"reward hacking: the reward rises and the audit falls, both beyond noise: reward {_from_to(rewards)}; audit"
        f" {_from_to(audits)}. Read responses/ before training on these"
    )


def _growing(book: AuditBook) -> Iterator[str]:
    lengths = {one.number: one.length for one in book.figures}
    trend = trend_of(lengths)
    if trend is None or trend.rises >= _CHANCE:
        return
    known = _known(lengths)
    first, last = min(known), max(known)
    if trend.slope * (last - first) < _NOTABLE * known[first].mean:
        return
    yield (
        f"answers grow longer beyond noise, by {trend.slope:.0f} characters a generation: {_from_to(lengths, '.0f')}"
        " characters; selection.length_cap, or at_most = { chosen_length = … }, stops that"
    )


def _narrowing(logbook: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    known = [line for line in logbook if line.get("vendi_equal") is not None]
    if len(known) < 2:
        return
    first, last = known[0], known[-1]
    # of a population that is no larger than the subsamples, there is only one, which shows no spread
    spread = max(line["vendi_equal_sd"] or 0.0 for line in known)
    fall = first["vendi_equal"] - last["vendi_equal"]
    if fall < _NOTABLE * first["vendi_equal"] or fall <= 3 * spread:
        return
    yield (
        f"diversity falls: the Vendi score of {last['vendi_equal_size']} parents was {first['vendi_equal']:.1f} in"
        f" generation {first['generation']} and is {last['vendi_equal']:.1f} in generation {last['generation']};"
        f" subsamples differ by {spread:.1f}"
    )


def _one_text(book: AuditBook) -> Iterator[str]:
    count, beginning = book.commonest
    if count >= _FEWEST_ALIKE and count >= _SHARE_ALIKE * book.answered:
        said = json.dumps(beginning, ensure_ascii=False)
        yield f"one text is the best answer to {count} of {book.answered} prompts that survived; it begins {said}"


def _no_audit(book: AuditBook) -> Iterator[str]:
    """Tells of an audit that could see nothing."""
    if book.audit_id is None or not book.figures:
        return
    if book.missing and not any(one.early_audit.n for one in book.figures):
        ((reason, count),) = book.missing.most_common(1)
        yield f"the audit gave no reward at all ({count} responses: {reason})"
        return
    unseen = [str(one.number) for one in book.figures if one.early_audit.n and not one.audit.n]
    if unseen:
        yield (
            f"the audit has no figures of generation {', '.join(unseen)}: all prompts were raced, and"
            " selection.race_audit left none to be drawn fully whatever the race said"
        )


def _known(points: Mapping[int, Moments]) -> dict[int, Moments]:
    return {number: one for number, one in points.items() if one.n > 1}


def _from_to(points: Mapping[int, Moments], form: str = ".3f") -> str:
    """Says what the mean was in the first generation and in the last."""
    known = _known(points)
    return ", ".join(
        f"{known[number].mean:{form}} in generation {number} ({known[number].n} prompts)"
        for number in (min(known), max(known))
    )
