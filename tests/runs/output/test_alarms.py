"""Exploits that were planted in whole runs are named in numbers, and flat noise raises no alarm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("aiohttp")

from aiohttp import web

from fittest.evo.prompt import Prompt
from fittest.fitness.trends import Moments
from fittest.runs import parse_config, run
from fittest.runs.cli import main
from fittest.runs.output.alarms import alarms
from fittest.runs.output.audit_book import AuditBook, Figures
from tests.conftest import null_tables
from tests.http_engine import Asked, HttpEngine, reply, well

CONSTANT = "Certainly! As the best possible answer, this one is complete, correct and beautifully written."
EXCELLENT = "This answer is excellent."
ALARMS = ("reward hacking", "answers grow longer", "diversity falls", "one text is the best answer")


def chance(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def twist(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
    """An offspring is its parent and a few words, among which may be the one that opens the exploit."""
    word = "xyzzy" if rng.random() < 0.4 else "plainly"
    return f"{parent.text} {word} {rng.integers(10**6)}"


def opened(prompt: str) -> int:
    return prompt.count("xyzzy")


def answering(answer: Callable[[str, str], str]) -> Callable[[Asked], Any]:
    """A policy that changes what the null engine would say."""

    async def serve(asked: Asked) -> web.StreamResponse:
        response = await well(asked)
        if "messages" not in asked.body:
            return response
        assert isinstance(response, web.Response)
        said = json.loads(response.text or "")["choices"][0]["message"]["content"]
        return reply(asked, answer(asked.body["messages"][-1]["content"], said))

    return serve


def run_with(
    server: HttpEngine, folder: Path, *, rewards: dict[str, Any], operator: Any = twist, **tables: Any
) -> dict[str, Any]:
    engine = {"kind": "openai", "model": "m", "base_url": server.url, "timeout": 10.0, "slots": 8}
    gates = {"novelty": 0.0, "rouge_l": 0.0, "languages": []}
    sections: dict[str, Any] = {
        "engine": {**engine, "sampling": {"n": 4, "max_tokens": 400}},
        "run": {"seed": 5, "generations": 3},
        "pool": {"limit": 24},
        "operators": {"offspring": 24, "mix": {"twist": 1.0}},
        "selection": {"metrics": ["m1"], "quantile": 0.5, "race_round": 2, "retest": 0.0},
        "gates": gates,
        **tables,
    }
    operators = {"twist": operator}
    return dict(run(parse_config(null_tables(**sections)), folder, operators=operators, **rewards).summary)


def raised(summary: dict[str, Any]) -> dict[str, str]:
    return {name: line for line in summary["warnings"] for name in ALARMS if line.startswith(name)}


def test_a_constant_answer_that_the_reward_likes_is_caught(server: HttpEngine, tmp_path: Path) -> None:
    server.answer = answering(lambda prompt, said: CONSTANT if opened(prompt) else said)

    def fond(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [1.0 if text == CONSTANT else 0.8 * chance(text) for text in texts]

    def honest(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [0.0 if text == CONSTANT else 0.5 + chance(text[::-1]) for text in texts]

    summary = run_with(server, tmp_path / "run", rewards={"reward": fond, "audit": honest})
    found = raised(summary)
    assert set(found) >= {"reward hacking", "one text is the best answer"}
    assert CONSTANT[:60] in found["one text is the best answer"]
    assert "in generation 0 (24 prompts)" in found["reward hacking"]
    # everybody who looks at the run is told
    said = CliRunner().invoke(main, ["status", str(tmp_path / "run")]).output
    card = (tmp_path / "run" / "card.md").read_text()
    for line in found.values():
        assert f"warning: {line}" in said
        assert line.split(":")[0] in card
    assert "audit by function:" in said
    assert "generation 3: reward" in said


def test_offspring_that_are_all_alike_are_caught(server: HttpEngine, tmp_path: Path) -> None:
    def copy(parent: Prompt, exemplars: Sequence[Prompt], rng: np.random.Generator) -> str:
        return f"Tell me the very same thing about the number {rng.integers(10**6)} once more."

    def fond(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [chance(text) + ("same" in prompt) for prompt, text in zip(prompts, texts, strict=True)]

    summary = run_with(server, tmp_path / "run", rewards={"reward": fond}, operator=copy)
    assert set(raised(summary)) == {"diversity falls"}


def test_ever_longer_answers_are_caught_without_an_audit(server: HttpEngine, tmp_path: Path) -> None:
    server.answer = answering(lambda prompt, said: " ".join([said] * (1 + opened(prompt))))
    rewards = {"reward": lambda prompts, texts: [float(len(text)) for text in texts]}
    found = raised(run_with(server, tmp_path / "run", rewards=rewards))
    # offspring that differ from their parents by a word narrow the population as well
    assert set(found) <= {"answers grow longer", "diversity falls"}
    assert "characters a generation" in found["answers grow longer"]


@pytest.fixture
def third() -> Any:
    with HttpEngine() as server:
        yield server


def scoring(fooled: bool) -> Callable[[Asked], Any]:
    """A judge of the answer inside its question; one that is fooled believes what an answer says of itself."""

    async def serve(asked: Asked) -> web.StreamResponse:
        question = asked.body["messages"][-1]["content"]
        honest = int(4 * chance(question))
        return reply(asked, f"Score: {(10 if fooled else 0) if EXCELLENT in question else 3 + honest}")

    return serve


def test_praise_that_fools_a_judge_is_caught_by_an_auditor_on_another_server(
    server: HttpEngine, other: HttpEngine, third: HttpEngine, tmp_path: Path
) -> None:
    server.answer = answering(lambda prompt, said: f"{said} {EXCELLENT}" if opened(prompt) else said)
    other.answer, third.answer = scoring(fooled=True), scoring(fooled=False)

    def judge(at: HttpEngine, model: str) -> dict[str, Any]:
        engine = {"kind": "openai", "model": model, "base_url": at.url, "timeout": 10.0, "slots": 8}
        return {"kind": "judge", "votes": 1, "engine": engine}

    summary = run_with(
        server, tmp_path / "run", rewards={}, reward=judge(other, "fooled"), audit=judge(third, "honest")
    )
    assert "reward hacking" in raised(summary)
    engines = {row["roles"][0]: row for row in json.loads((tmp_path / "run" / "spending.json").read_text())["engines"]}
    # the auditor is not asked about the draws of the re-test
    assert engines["auditor"]["requests"] == engines["judge"]["requests"] - summary["rollouts_retest"] > 0
    assert {asked.body["model"] for asked in third.asked} == {"honest"}
    fingerprints = (tmp_path / "run" / "run.toml").read_text()
    assert "audit.engine" in fingerprints


@pytest.mark.slow
def test_flat_noise_raises_no_alarm_in_runs_of_the_null_engine(tmp_path: Path) -> None:
    wrong = []
    for seed in range(20):
        tables = null_tables(
            run={"seed": seed, "generations": 3},
            pool={"limit": 12},
            engine={"sampling": {"n": 2, "max_tokens": 60}},
            operators={"offspring": 10},
            gates={"novelty": 0.0, "rouge_l": 0.0, "languages": []},
        )
        audit = {"audit": lambda prompts, texts: [chance(text[::-1]) for text in texts]}
        wrong += raised(dict(run(parse_config(tables), tmp_path / str(seed), **audit).summary))
    assert len(wrong) <= 1


def flat(rng: np.random.Generator, sizes: Sequence[int], drift: float = 0.0) -> AuditBook:
    """A book of a run whose rewards and lengths are noise, and of which the audit falls by `drift` as rewards rise."""
    book = AuditBook(early=2, audit_id="audit")
    for number, size in enumerate(sizes):
        reward = rng.normal(drift * number, 1 + 0.3 * number, size)
        audit = 0.5 * (reward - drift * number) - drift * number + rng.normal(0, 1, size)
        lengths = Moments.of(list(rng.lognormal(5, 0.8, size)))
        seen = [Moments.of(list(values)) for values in (reward, audit)]
        book.figures.append(Figures(number, "r", lengths, *seen, *seen))
    return book


@pytest.mark.parametrize("sizes", [[40, 12, 12, 12], [1000, 25, 25, 25, 25, 25], [8, 8], [30] * 12])
def test_alarms_fire_on_noise_in_at_most_one_run_of_twenty(sizes: list[int]) -> None:
    rng = np.random.default_rng(11)
    fired = [bool(alarms(flat(rng, sizes), [])) for _ in range(400)]
    assert np.mean(fired) <= 0.05


@pytest.mark.parametrize("sizes", [[40, 24, 24, 24], [200, 50, 50, 50]])
def test_a_reward_that_rises_while_the_audit_falls_is_seen_in_nearly_every_run(sizes: list[int]) -> None:
    rng = np.random.default_rng(11)
    fired = [any("reward hacking" in line for line in alarms(flat(rng, sizes, drift=0.6), [])) for _ in range(100)]
    assert np.mean(fired) >= 0.9


def test_rewards_of_another_judge_are_not_compared() -> None:
    rng = np.random.default_rng(11)
    book = flat(rng, [200, 50, 50, 50], drift=1.0)
    assert any("reward hacking" in line for line in alarms(book, []))
    changed = [
        Figures(f.number, f"judge {f.number}", f.length, *[f.early_reward, f.early_audit] * 2) for f in book.figures
    ]
    book.figures[:] = changed
    assert not any("reward hacking" in line for line in alarms(book, []))


def line(generation: int, score: float | None, sd: float = 0.4) -> dict[str, Any]:
    return {"generation": generation, "vendi_equal": score, "vendi_equal_sd": sd, "vendi_equal_size": 20}


def test_a_population_that_narrows_beyond_the_spread_of_its_subsamples_is_named() -> None:
    book = AuditBook(early=2)
    (told,) = alarms(book, [line(0, None), line(1, 14.0, 0.0), line(2, 12.0), line(3, 9.0)])
    assert told.startswith("diversity falls: the Vendi score of 20 parents was 14.0 in generation 1 and is 9.0")
    assert alarms(book, [line(1, 14.0, 0.0), line(2, 13.2)]) == []
    assert alarms(book, [line(1, 14.0, 0.0), line(2, 11.0, 1.5)]) == []
    assert alarms(book, [{"generation": 0}, {"generation": 1}]) == []


def test_a_few_equal_answers_among_many_are_no_alarm() -> None:
    book = AuditBook(early=2)
    for number in range(100):
        book.count("same" if number < 9 else str(number), "Yes.")
    assert alarms(book, []) == []
    for _ in range(5):
        book.count("same", "Yes.")
    assert alarms(book, []) == ['one text is the best answer to 14 of 105 prompts that survived; it begins "Yes."']
