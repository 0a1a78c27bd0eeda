"""What reads a model's text takes time in proportion to its length, whatever the text consists of.

A quadratic pattern takes 17 s for 32,000 line breaks, and minutes for the lengths used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from fittest.evo.prompt import Prompt
from fittest.evo.reasoning import without_reasoning
from fittest.evo.records import Birth, Completion
from fittest.fitness.baselines import instag, prompt_judge
from fittest.fitness.judge.construction import _parse_modified
from fittest.fitness.judge.labels import Label
from fittest.fitness.judge.verdict import parse_verdict
from fittest.fitness.quoting import without_turn_markup
from fittest.fitness.rewards.judge import _parse_score
from fittest.operators.gates import Contamination, Exact, Keywords, Length, Readable
from fittest.operators.parsing import parse_candidate


def asked(gate: Keywords | Length | Readable | Exact | Contamination) -> Callable[[str], object]:
    return lambda text: gate.check(Prompt(text, Birth(operator="mutate", generation=1, slot=0)))


READERS: dict[str, Callable[[str], object]] = {
    "candidate": lambda text: parse_candidate(text, "stop"),
    "candidate, cut": lambda text: parse_candidate(text, "length"),
    "verdict": parse_verdict,
    "changed instruction": _parse_modified,
    "label": lambda text: Label.read(Completion(text, "stop", 1, 1)),
    "binary vote": prompt_judge._parse_binary,
    "vote": prompt_judge._parse_pointwise,
    "tags": instag._parse_tags,
    "score": lambda text: _parse_score(text, 10),
    "quotation": without_turn_markup,
    "reasoning": lambda text: without_reasoning(Completion(text, "stop", 1, 1)),
    "readable": asked(Readable()),
    "length": asked(Length(min_chars=1, max_chars=4000)),
    "keywords": asked(Keywords(keywords=["image", "graph", "C++"])),
    "exact": asked(Exact()),
    "contamination": asked(Contamination(benchmarks={"file": ["one two three four five six seven eight nine"]})),
}

UNITS = (
    "\n", " ", " \n", "\r\n", "\n ", "\n\n", "<think>", "</think>", "<task>", "</task>", "<task", "< ", "<", "<|a",
    "a<task>", "1", "1. ", "\n1. ", "\n2. a", "10\n", "*", "**", "#", "- ", "\n- ", '"', "'", "'a", "[", "]", '["',
    '["a",', "[[", "[[A] ", "(", "{", "Score: ", "\nScore: 1", "Score (", "Verdict is ", "not a b ", "```", "```\n",
    "a", "a ", "a: ", "Sure: ", "here is a task ", "tags: ", '"tag":', "category: ", "\ncategory:", "\nAnswer ",
    "\n\nnote", "<answer>", "<new instruction>a</new instruction><answer>a", "1 - ", "0 to 5 ", "?", ". ", "\x0b",
    "my ", "score ", "image ", "it's ",
)  # fmt: skip


def texts(length: int) -> Iterator[tuple[str, str]]:
    for unit in UNITS:
        run = (unit * (length // len(unit) + 1))[:length]
        for before, after in (
            ("", ""),
            ("", "x"),
            ("Task a ", "x."),
            ("<", "x"),
            ("<task>", "x</task>"),
            ("", "<task>"),
        ):
            yield f"{before!r}, then {unit!r} again and again, then {after!r}", before + run + after


def slowest(reader: Callable[[str], object], length: int, bound: float) -> None:
    for name, text in texts(length):
        began = time.process_time()
        reader(text)
        spent = time.process_time() - began
        assert spent < bound, f"{spent:.1f} s for {name}"


@pytest.mark.parametrize("name", READERS)
def test_forty_thousand_characters_of_anything_are_read_at_once(name: str) -> None:
    slowest(READERS[name], 40_000, 10.0)


@pytest.mark.attack
@pytest.mark.parametrize("name", READERS)
def test_a_megabyte_of_anything_is_read_at_once(name: str) -> None:
    slowest(READERS[name], 1_000_000, 5.0)
