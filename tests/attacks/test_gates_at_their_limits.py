"""A gate that meets a limit, or raises, turns one prompt away and ends no run; each but two can be switched off."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fittest.evo.errors import FittestError
from fittest.evo.gatekeeper import Gatekeeper, complete
from fittest.evo.ordering import ReorderBuffer
from fittest.evo.prompt import Prompt
from fittest.evo.records import Birth
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.operators.gates import Exact, RougeL, build_gates
from fittest.runs.config import parse_config
from fittest.runs.output.journal import SqliteJournal
from fittest.runs.parts.assembly import _gates
from tests.conftest import null_tables


def prompt(text: str, slot: int = 0) -> Prompt:
    return Prompt(text, Birth(operator="mutate", generation=1, slot=slot))


class Faulty:
    """A gate that raises on what it is told to."""

    name, ordered, screens_pool, needs_embedding = "faulty", True, True, False

    def __init__(self, *, check: str = "", admit: str = "") -> None:
        self._check, self._admit = check, admit

    def check(self, prompt: Prompt) -> str | None:
        if self._check and self._check in prompt.text:
            raise ValueError("chr() arg not in range\nof characters \x1b[2J")
        return None

    def admit(self, prompt: Prompt) -> None:
        if self._admit and self._admit in prompt.text:
            raise RuntimeError("no room")


def passed(gates: list[Any], texts: list[str]) -> list[Prompt]:
    gatekeeper = Gatekeeper(gates, embedder=HashEmbedder(dimension=16), journal=SqliteJournal(":memory:"))
    prompts = [prompt(text, slot) for slot, text in enumerate(texts)]

    async def all_of_them() -> None:
        order = ReorderBuffer()
        for one in prompts:
            await gatekeeper.pass_through(one, order.in_order(one.birth.slot))

    asyncio.run(all_of_them())
    assert len(gatekeeper.archive) == sum(one.gate is None for one in prompts)
    return prompts


def test_rouge_l_knows_more_words_than_there_are_characters() -> None:
    gate = RougeL(threshold=0.7)
    gate.admit(prompt(" ".join(f"w{number}" for number in range(0x110000 + 10))))
    last = [f"w{0x110000 + number}" for number in range(-5, 10)]
    gate.admit(prompt(" ".join(last)))
    gate.admit(prompt("w1 w2 w3 w4"))
    assert (gate.check(prompt(" ".join(last[:-3]))) or "").startswith("ROUGE-L 0.889 with")
    assert (gate.check(prompt("w1 w2 w3 unheard")) or "").startswith("ROUGE-L 0.750 with")
    assert gate.check(prompt("w5 w6 w7 w8")) is None


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"check": "two"}, "error: ValueError: chr() arg not in range"),
        ({"admit": "two"}, "error: RuntimeError: no room"),
    ],
)
def test_a_gate_that_raises_turns_one_prompt_away_and_says_what_it_raised(faults: dict[str, str], reason: str) -> None:
    found = passed([Exact(), Faulty(**faults)], ["one is here", "two is here", "three is here"])
    assert [one.gate for one in found] == [None, "faulty", None]
    said = found[1].gate_reason or ""
    assert said.startswith(reason)
    assert said.isprintable()


def test_a_gate_that_says_what_its_user_did_wrong_ends_the_run() -> None:
    class Strict(Faulty):
        def check(self, prompt: Prompt) -> str | None:
            raise FittestError("gates.strict: no such list")

    with pytest.raises(FittestError, match=r"gates\.strict"):
        passed([Strict()], ["one is here"])


@pytest.mark.parametrize("missing", ["name", "ordered", "screens_pool", "needs_embedding", "check", "admit"])
def test_a_gate_that_lacks_something_is_named_in_one_line(missing: str) -> None:
    parts = {name: getattr(Faulty, name) for name in ("name", "ordered", "screens_pool", "needs_embedding")}
    parts |= {name: lambda self, prompt: None for name in ("check", "admit")}
    whole = type("Half", (), parts)()
    assert complete(whole, "half") is whole
    half = type("Half", (), {name: part for name, part in parts.items() if name != missing})()
    with pytest.raises(FittestError) as error:
        complete(half, "half")
    assert str(error.value) == f"gates.half: the gate has no {missing}; fittest.evo.protocols.Gate says what one has"


RAIN = "What makes the rain fall in the autumn and not in the summer?"
TREES = "How do old trees know that the winter has come to their valley?"


@pytest.mark.parametrize(
    ("name", "off", "texts"),
    [
        ("rouge_l", {"rouge_l": 0}, [RAIN, RAIN.replace("autumn", "spring")]),
        ("novelty", {"novelty": 0}, [f"{RAIN} {TREES}", f"{TREES} {RAIN}"]),
        ("length", {"min_chars": 0, "max_chars": 0}, [RAIN, "Why rain?"]),
        ("language", {"languages": []}, [RAIN, "Zeichne bitte ein Haus am See für meine Kinder"]),
        ("keywords", {"keywords": []}, [RAIN, "What can be seen in this image of a lake?"]),
        ("contamination", {"contamination": []}, [RAIN, TREES]),
    ],
)
def test_a_gate_can_be_switched_off(name: str, off: dict[str, Any], texts: list[str], tmp_path: Path) -> None:
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps({"prompt": TREES}) + "\n")
    on = {"contamination": [str(benchmark)]} if name == "contamination" else {}

    def gates(keys: dict[str, Any]) -> list[Any]:
        return _gates(parse_config(null_tables(gates=keys)))

    assert [one.gate for one in passed(gates(on), texts)] == [None, name]
    assert [one.gate for one in passed(gates(on | off), texts)] == [None, None]
    assert {"parse", "exact"} <= {gate.name for gate in gates(on | off)}


def test_one_end_of_the_length_can_be_open() -> None:
    config = parse_config(null_tables(gates={"min_chars": 20, "max_chars": 0}))
    settings = config.gates.model_dump(exclude={"contamination"})
    found = passed(build_gates(**settings)[:2], ["too short", "long enough " * 2000])
    assert [one.gate for one in found] == ["length", None]
