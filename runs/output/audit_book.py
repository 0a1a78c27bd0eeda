"""Keeps by generation what the answers are worth to the reward that decides and to the one that does not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from fittest.evo.records import Missing
from fittest.fitness.trends import Moments

if TYPE_CHECKING:
    from fittest.evo.prompt import Prompt
    from fittest.evo.records import Response
    from fittest.evo.state import Generation

AUDIT_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "reward_n": pl.Int64, "reward": pl.Float64, "reward_low": pl.Float64, "reward_high": pl.Float64,
    "audit_reward": pl.Float64, "audit_low": pl.Float64, "audit_high": pl.Float64,
}  # fmt: skip
"""The columns that an audit adds to the logbook."""

_LONGEST_BEGINNING = 60
"""A message shows no more characters of a text."""


class _Worth(NamedTuple):
    """Holds the mean rewards of the answers that have both."""

    reward: float
    audit: float


class _Seen(NamedTuple):
    """Holds what is kept of one prompt until its generation is sealed.

    Attributes:
        length: the mean length of its early answers in characters; None if there are none.
        early: what its early answers are worth, and `full` what all of them are.
        chosen: the digest and the beginning of its best answer.
    """

    length: float | None
    early: _Worth | None
    full: _Worth | None
    chosen: tuple[str, str] | None


@dataclass(frozen=True)
class Figures:
    """Holds what the answers of one generation are like.

    Attributes:
        number: of the generation.
        reward_id: the reward that decided.
        length: the length of answers.
        early_reward: the reward of early answers, of which no race has taken any away.
        early_audit: their audit.
        reward: the reward of all answers to the prompts that were sampled fully whatever a race said.
        audit: their audit.
    """

    number: int
    reward_id: str
    length: Moments
    early_reward: Moments
    early_audit: Moments
    reward: Moments
    audit: Moments

    @cached_property
    def columns(self) -> dict[str, Any]:
        """Returns the row of `AUDIT_COLUMNS`."""
        found: dict[str, Any] = dict.fromkeys(AUDIT_COLUMNS)
        found["reward_n"] = self.reward.n
        for name, moments in (("reward", self.reward), ("audit", self.audit)):
            if moments.n:
                found["reward" if name == "reward" else "audit_reward"] = moments.mean
            if moments.interval is not None:
                found[f"{name}_low"], found[f"{name}_high"] = moments.interval
        return found


@dataclass
class AuditBook:
    """Takes what it needs of each prompt as it is evaluated, before its responses are put away.

    Attributes:
        early: the number of responses that are drawn of each prompt before any race can stop it.
        audit_id: the fingerprint of the reward that decides nothing; None without an audit.
        figures: those of each sealed generation.
        chosen: how many survivors have each best answer, by its digest.
        answered: how many survivors have one.
        commonest: the most frequent of these answers: its number and its beginning.
        missing: why answers have no audit.
    """

    early: int
    audit_id: str | None = None
    figures: list[Figures] = field(default_factory=list)
    chosen: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    commonest: tuple[int, str] = (0, "")
    missing: Counter[str] = field(default_factory=Counter)
    _seen: dict[int, dict[int, _Seen]] = field(default_factory=dict)
    _reward_ids: dict[int, str] = field(default_factory=dict)

    def take(self, prompt: Prompt, reward_id: str) -> None:
        """Takes note of an evaluated prompt.

        Args:
            prompt: the prompt, with its responses.
            reward_id: the fingerprint of the reward that decided.
        """
        responses, metrics, number = prompt.responses, prompt.metrics, prompt.birth.generation
        if not responses:
            return
        early = [response for response in responses if response.sample < self.early]
        lengths = [len(response.text) for response in early if response.text is not None]
        whole = not prompt.eliminated and prompt.audited is not False
        self._reward_ids[number] = reward_id
        self._seen.setdefault(number, {})[prompt.birth.slot] = _Seen(
            length=fmean(lengths) if lengths else None,
            early=_worth(early),
            full=_worth(responses) if whole else None,
            chosen=_known_by(responses[metrics.chosen].text) if metrics is not None else None,
        )
        self.missing.update(r.audit.reason for r in responses if isinstance(r.audit, Missing))

    def seal(self, generation: Generation) -> None:
        """Computes the figures of a finished generation."""
        seen = self._seen.pop(generation.number, {})
        # in the order of slots, since the last bits of a mean depend on it
        ordered = [seen[slot] for slot in sorted(seen)]
        early = [one.early for one in ordered if one.early is not None]
        full = [one.full for one in ordered if one.full is not None]
        self.figures.append(
            Figures(
                generation.number,
                self._reward_ids.pop(generation.number, ""),
                length=Moments.of([one.length for one in ordered if one.length is not None]),
                early_reward=Moments.of([one.reward for one in early]),
                early_audit=Moments.of([one.audit for one in early]),
                reward=Moments.of([one.reward for one in full]),
                audit=Moments.of([one.audit for one in full]),
            )
        )
        for prompt in generation.candidates:
            one = seen.get(prompt.birth.slot)
            if prompt.survived and one is not None and one.chosen is not None:
                self.count(*one.chosen)

    def count(self, digest: str, beginning: str) -> None:
        """Counts the best answer of a survivor; of answers that are equally frequent, the first to be so counts."""
        self.answered += 1
        self.chosen[digest] += 1
        if self.chosen[digest] > self.commonest[0]:
            self.commonest = self.chosen[digest], beginning

    def rows(self, logbook: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns the lines of a logbook, each with the columns of the audit."""
        columns = {} if self.audit_id is None else {one.number: one.columns for one in self.figures}
        return [{**line, **columns.get(line["generation"], {})} for line in logbook]

    @property
    def summary(self) -> dict[str, Any]:
        """Returns what summary.json holds of the audit; nothing without one."""
        if self.audit_id is None:
            return {}
        lines = [{"generation": one.number, **one.columns} for one in self.figures]
        return {
            "audit": {"reward_id": self.audit_id, "generations": lines, "missing": dict(sorted(self.missing.items()))}
        }


def _worth(responses: Sequence[Response]) -> _Worth | None:
    both = [(r.reward, r.audit) for r in responses if r.reward is not None and isinstance(r.audit, float)]
    return _Worth(*map(fmean, zip(*both, strict=True))) if both else None


def _known_by(text: str | None) -> tuple[str, str] | None:
    """Returns a digest of a text that is the same however it is spaced, and how it begins."""
    if text is None:
        return None
    words = " ".join(text.split())
    # of a hundred thousand survivors, 16 digits tell all apart
    return hashlib.sha256(words.casefold().encode()).hexdigest()[:16], words[:_LONGEST_BEGINNING]


def audit_lines(summary: Mapping[str, Any]) -> list[str]:
    """Describes the audit of a run by generation; no line without one.

    Args:
        summary: what summary.json holds.
    """
    found = summary.get("audit")
    if not found:
        return []
    lines = [
        f"  generation {line['generation']}: reward {_with_ends(line, 'reward', 'reward')}, audit"
        f" {_with_ends(line, 'audit_reward', 'audit')}, {line['reward_n']} prompts"
        for line in found["generations"]
    ]
    return [f"audit by {found['reward_id']}, over prompts whose answers were all drawn, whatever a race said:", *lines]


def _with_ends(line: Mapping[str, Any], mean: str, ends: str) -> str:
    if line[mean] is None:
        return "unknown"
    low, high = line[f"{ends}_low"], line[f"{ends}_high"]
    return f"{line[mean]:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")
