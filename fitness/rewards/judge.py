"""Asks a language model for the reward: judgments of each answer are averaged (arXiv 2501.18578, section 4.1.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from fittest.evo.errors import FittestError
from fittest.evo.keys import response_key
from fittest.evo.protocols import Ask
from fittest.evo.records import Completion, Failure, Message, Missing, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.quoting import MARK_DIGITS, without_turn_markup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2 import Template

# a prompt and the response to it
_Answer = tuple[str, str]

_SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=256)
# part of the fingerprint: it is raised when the same replies would give other rewards
_VERSION = 1

_TEMPLATE = Path(__file__).parent / "templates" / "judge.j2"
_UNPARSED = "no judgment could be parsed"


class JudgeReward:
    """Gives the mean of `votes` judgments on a scale from 0, each drawn with a seed of its own.

    A vote that failed or cannot be parsed is missing; an answer without any vote has a missing reward. Votes go
    through the same feeder as rollouts, so they share the engine's slots, the journal and the budget.

    Args:
        engine: the fingerprint of the engine that judges.
        seeds: the run's seed tree; the seed of a vote follows from prompt, response and number of the vote alone.
        scale: the highest score.
        votes: the number of judgments of each answer; the default 10 is the paper's.
        sampling: how judgments are drawn.

    Raises:
        FittestError: `scale` or `votes` is below 1.
    """

    quick = True

    def __init__(
        self, *, engine: str, seeds: SeedTree, scale: int = 10, votes: int = 10, sampling: Sampling = _SAMPLING
    ) -> None:
        for key, value in (("scale", scale), ("votes", votes)):
            if value < 1:
                raise FittestError(f"reward.{key}: found {value}; expected at least 1")
        self.scale = scale
        self.votes = votes
        self.sampling = sampling
        self._engine = engine
        self._seeds = seeds
        self._ask: Ask | None = None

    @property
    def fingerprint(self) -> str:
        """Identifies everything that decides a reward but the texts: scale, votes, sampling, wording and engine."""
        settings = {
            "scale": self.scale,
            "votes": self.votes,
            **asdict(self.sampling),
            "template": _digest_of_wording(),
        }
        return f"judge:{_VERSION}:{','.join(f'{key}={value}' for key, value in settings.items())}:{self._engine}"

    def connect(self, ask: Ask) -> None:
        """Sets where requests go: to `Feeder.ask_all`, or to any function that answers them in their order."""
        self._ask = ask

    async def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | Missing]:
        """Returns rewards in the order of the responses; all votes on all of them are asked for together.

        Args:
            prompts: the prompts, shape (responses,).
            responses: the response to each prompt, shape (responses,).

        Raises:
            FittestError: the judge is not connected to an engine.
        """
        if self._ask is None:
            raise FittestError("the judge is not connected to an engine; call connect(feeder.ask_all) first")
        answers = list(zip(prompts, responses, strict=True))
        distinct = list(dict.fromkeys(answers))
        replies = await self._ask([request for answer in distinct for request in self._requests(answer)])
        ballots = [replies[start : start + self.votes] for start in range(0, len(replies), self.votes)]
        rewards = {answer: self._mean(ballot) for answer, ballot in zip(distinct, ballots, strict=True)}
        return [rewards[answer] for answer in answers]

    def _requests(self, answer: _Answer) -> list[Request]:
        digest = response_key(*answer)
        prompt, response = map(without_turn_markup, answer)
        # neither text can close its own fence, since it would have to contain a piece of its own hash
        question = _template().render(prompt=prompt, response=response, mark=digest[:MARK_DIGITS], scale=self.scale)
        messages = (Message("user", question),)
        seeds = self._seeds.engine_seeds(Stream.JUDGE, int(digest[:16], 16), count=self.votes)
        return [Request("judge", self.sampling, seed, vote, messages) for vote, seed in enumerate(seeds)]

    def _mean(self, ballot: Sequence[Completion | Failure]) -> float | Missing:
        votes = [vote for reply in ballot if (vote := self._vote(reply)) is not None]
        if votes:
            return fmean(votes)
        failures = [reply.reason for reply in ballot if isinstance(reply, Failure)]
        return Missing(f"{_UNPARSED}: {failures[0]}" if len(failures) == len(ballot) else _UNPARSED)

    def _vote(self, reply: Completion | Failure) -> float | None:
        if isinstance(reply, Failure):
            return None
        # a reply that was cut may end after the 1 of a 10, so its last line does not count
        text = reply.text if reply.finish_reason == "stop" else reply.text.rpartition("\n")[0]
        return _parse_score(text, self.scale)


@cache
def _template() -> Template:
    # a name that the template misspells shall be an error, and not an empty place in the question
    return Environment(undefined=StrictUndefined).from_string(_wording())


@cache
def _wording() -> str:
    return _TEMPLATE.read_text(encoding="utf-8")


def _digest_of_wording() -> str:
    return hashlib.sha256(_wording().encode()).hexdigest()[:16]


# emphasis, headings and code marks say nothing about the number
_MARKDOWN = re.compile(r"[*_`#]")
_SPACES = re.compile(r"\s+")
_DASHES = str.maketrans("−–—：", "---:")

_NUMBER = r"(?P<number>-?[0-9]+(?:\.[0-9]+)?)"
_OF = r"(?: ?\(?(?:/|out of|of) ?(?P<of>[0-9]+(?:\.[0-9]+)?))?"
_LABEL = re.compile(
    r"""(?:^\W*|[.!?;)\]}"] |, ?")(?:(?:my|the|final|overall|total) ){0,3}(?:score|rating|grade|verdict|mark)["']?"""
    r"""(?: ?[(\[][^()\[\]]*[)\]]| out of [0-9]+)? ?(?P<link>[:=]|- |is )""",
    re.IGNORECASE,
)
_AMOUNT = re.compile(rf" ?[\"'(\[{{<]* ?{_NUMBER}(?: ?[\"')\]}}>]+)?{_OF}", re.IGNORECASE)
# 7-8, 7 or 8, 7/10/10, 7,5, 7%, 7th: not one number after all
_MORE = re.compile(r" ?(?:[-/~,]|to|or|and|\.(?=[0-9]))? ?(?:maybe |perhaps |possibly )?[0-9]|\w| ?%", re.IGNORECASE)
# the characters after a label or number that decide what it means; without a bound, a long line of numbers
# would be searched anew from each of them
_REMARK = 80
_MARKED = re.compile(rf"(?:\[\[|\\boxed ?\{{) ?{_NUMBER}{_OF} ?(?:\]\]|\}})", re.IGNORECASE)
_ALONE = re.compile(rf"[^\w%]*?{_NUMBER}{_OF}[^\w%]*", re.IGNORECASE)


def _parse_score(text: str, scale: float) -> float | None:
    """Reads the score that a judgment ends with, in [0, scale]; None when it gives none, or none that is clear."""
    # A verdict is a labelled number (`Score: 7`, `**Rating:** 8 out of 10`), a marked one (`[[7]]`), a fraction of the
    # scale alone on a line (`7/10`), or a bare number alone on the last line. The last verdict counts, even when it is
    # out of range or ambiguous, since a judge may change its mind. Numbers in running prose and in `<think>` do not.
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    lines = [line for raw in text.splitlines() if (line := _plain(raw))]
    for line in reversed(lines):
        verdicts = list(_verdicts(line, scale, last=line is lines[-1]))
        if verdicts:
            return max(verdicts, key=lambda verdict: verdict[0])[1]
    return None


def _plain(line: str) -> str:
    return _SPACES.sub(" ", _MARKDOWN.sub(" ", line.translate(_DASHES))).strip()


def _verdicts(line: str, scale: float, *, last: bool) -> Iterator[tuple[int, float | None]]:
    """Finds the verdicts of one line: the position of each, and its score, or None where it gives no clear one."""
    for marked in _MARKED.finditer(line):
        yield marked.start("number"), _in_range(marked, scale)
    alone = _ALONE.fullmatch(line)
    if alone and (last or (alone["of"] and float(alone["of"]) == scale)):
        yield alone.start("number"), _in_range(alone, scale)
    for label in _LABEL.finditer(line):
        yield from _labelled(line, label, scale)


def _labelled(line: str, label: re.Match[str], scale: float) -> Iterator[tuple[int, float | None]]:
    amount = _AMOUNT.match(line, label.end())
    begin = amount.end() if amount else label.end()
    rest = line[begin : begin + _REMARK]
    in_prose = label["link"].lower() == "is " and (amount is None or re.search(r"\w", rest))
    if in_prose or (amount is None and not re.search("[0-9]", rest)):
        return
    clear = amount is not None and not _MORE.match(rest)
    yield label.end(), _in_range(amount, scale) if amount and clear else None


def _in_range(match: re.Match[str], scale: float) -> float | None:
    number = match["number"]
    fits = match["of"] is None or float(match["of"]) == scale
    return float(number) if fits and not number.startswith("-") and float(number) <= scale else None
