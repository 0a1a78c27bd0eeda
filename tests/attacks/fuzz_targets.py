"""What is fuzzed: each target takes bytes, makes of them what a file or a server could bring in, and hands it over.

A target passes when nothing is raised but FittestError, and when what it asserts of the outcome holds.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import tomli_w

from fittest.evo.errors import FittestError
from tests.attacks.fuzz_input import Draws
from tests.conftest import null_tables

Feed = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """Describes one thing that is fuzzed.

    Attributes:
        begin: makes what is fed, given an empty folder that it may use.
        seeds: inputs to begin with.
        words: pieces of inputs that the code under test knows.
        share: its share of the time, against the other targets.
    """

    begin: Callable[[Path], Feed]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    share: float = 1.0


_ROWS: list[dict[str, Any]] = [
    {"prompt": "Name a city.", "response": "Rome", "reward": 0.5, "source": "s", "licence": "mit", "language": "en"},
    {"prompt": "Name a city.", "response": "Oslo", "reward": None, "source": None, "licence": "", "language": "de"},
    {"prompt": "Why?", "response": None, "reward": 1e9, "source": "t", "licence": None, "language": None},
]
_CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
_PAIRS: list[dict[str, Any]] = [
    {"instruction": "Q", "response_a": "a", "response_b": "b", "label": "A", "subset": "s"},
    {"input": "Q", "output_1": "a", "output_2": "b", "label": 2},
    {"conversation_a": _CHAT, "conversation_b": _CHAT, "winner": "model_a", "turn": 1},
    {"prompt": "Q", "response_1": "a", "response_2": "b", "preference_strength": -1},
    {"prompt": "Q", "response": "a", "helpfulness": 3},
    {"prompt": _CHAT[:1], "chosen": _CHAT, "rejected": _CHAT},
    {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"},
]
_NAMES = sorted({name for row in (*_ROWS, *_PAIRS) for name in row} | {"role", "content", "from", "value", "messages"})


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    columns = [name for name, cell in rows[0].items() if not isinstance(cell, list)]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([columns, *([row[name] for name in columns] for row in rows)])
    return file.getvalue().encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(rows).write_parquet(file, compression="uncompressed", use_pyarrow=False)
    return file.getvalue()


def _pool(path: Path) -> None:
    from fittest.runs.sources.pool import read_pool

    assert read_pool(path).prompts


def _responses(path: Path) -> None:
    from fittest.runs.sources.responses import Columns, read_responses

    read_responses(path, Columns()).by_prompt()


def _pairs(path: Path) -> None:
    from fittest.runs.sources.pair_file import read_pairs

    assert read_pairs(path, labelled=False).pairs


def _file(read: Callable[[Path], None], name: str, folder: Path) -> Feed:
    path = folder / name

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return feed


def _json_rows(read: Callable[[Path], None], folder: Path) -> Feed:
    """JSON lines of any shape, whose keys are often those that are looked for."""
    path = folder / "rows.jsonl"

    def feed(data: bytes) -> None:
        draws = Draws(data, _NAMES)
        rows = [
            {name: draws.value(3) for name in row} | {draws.text(): draws.value(2)}
            for row in [(*_ROWS, *_PAIRS)[draws.below(len(_ROWS) + len(_PAIRS))]]
            for _ in range(1 + draws.below(3))
        ]
        path.write_bytes("\n".join(map(json.dumps, rows)).encode())
        read(path)

    return feed


def _toml(folder: Path) -> Feed:
    from fittest.runs.config.file import load_config

    return _file(lambda path: load_config(path).toml_tables(), "run.toml", folder)


def _override(folder: Path) -> Feed:
    from fittest.runs.config.file import read_tables

    def feed(data: bytes) -> None:
        read_tables(None, [data.decode(errors="surrogateescape")])

    return feed


def _sections(folder: Path) -> Feed:
    """Tables of any shape, whose keys are often those of a configuration."""
    from fittest.runs.config import parse_config

    names = sorted({*null_tables(), *(key for table in null_tables().values() for key in table), *_CONFIG_WORDS})

    def feed(data: bytes) -> None:
        draws = Draws(data, names)
        tables = {name: dict(table) for name, table in null_tables().items()}
        for _ in range(1 + draws.below(3)):
            tables.setdefault(names[draws.below(len(names))], {})[draws.text()] = draws.value(3)
        config = parse_config(tables)
        assert parse_config(config.toml_tables()) == config

    return feed


_CONFIG_WORDS = (
    "prices", "budget", "proposer", "gates", "kind", "openai", "judge", "http", "url", "base_url", "scale", "votes",
    "policy", "absolute", "at_least", "m1", "confirm", "mix", "self_rip", "languages", "extra_body", "headers_env",
)  # fmt: skip


def _prices(folder: Path) -> Feed:
    from fittest.evo.spending import Ledger, Spending
    from fittest.runs.config import parse_config

    keys = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_hour", "judge", "proposer")

    def feed(data: bytes) -> None:
        draws = Draws(data, keys)
        found = {key: draws.number() if draws.below(4) else draws.value(2) for key in keys[: 1 + draws.below(6)]}
        prices = parse_config({**null_tables(), "prices": found, "budget": {"max_cost": draws.number()}}).price_list
        ledger = Ledger()
        ledger.add("rollout", Spending(3, 10**6, 10, 10**6, 3600.0))
        assert not math.isnan(prices.of_tokens(ledger))
        assert not math.isnan(prices.of_time(3600.0))

    return feed


def _thresholds(folder: Path) -> Feed:
    from fittest.runs.output.thresholds import load_thresholds

    def load(path: Path) -> None:
        assert load_thresholds(path, reward_id="head", length_unit="chars", pairing="best-worst").cuts

    return _file(load, "thresholds.json", folder)


def _folder(folder: Path) -> Feed:
    """The small files of a run's folder, as `status`, `run --resume` and the card read them."""
    from fittest.runs.config import parse_config
    from fittest.runs.output.folder import RunFolder

    run, config = RunFolder(folder), parse_config(null_tables())
    run.begin(config, {"policy": "null"})

    def feed(data: bytes) -> None:
        for file in (run.summary_file, run.spending_file):
            file.write_bytes(data)
        run.spending()
        run.finished(config)

    return feed


_REPLY_WORDS = (
    "choices", "text", "message", "content", "finish_reason", "stop", "length", "usage", "prompt_tokens", "error",
    "completion_tokens", "prompt_tokens_details", "cached_tokens", "reasoning", "reasoning_content", "type",
    "thinking", "completion_tokens_details", "reasoning_tokens", "param", "code", "detail", "msg", "loc", "rewards",
    "data", "score",
)  # fmt: skip
_REPLY: dict[str, Any] = {
    "choices": [{"text": "x", "finish_reason": "stop"}, {"message": {"content": "y"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}},
}


def _reply(folder: Path, *, structured: bool) -> Feed:
    """What a server sends, read as a reply, as an error and as rewards; answers go into a journal and come back."""
    from fittest.evo.backends.openai_format import completions_of, error_words, one_line, parameter_in, reply_of
    from fittest.evo.backends.servers import Trouble
    from fittest.evo.records import Completion, Failure
    from fittest.fitness.rewards.remote import numbers_in
    from fittest.runs.output.journal import SqliteJournal

    journal, number = SqliteJournal(":memory:"), 0

    def feed(data: bytes) -> None:
        nonlocal number
        if structured:
            draws = Draws(data, _REPLY_WORDS)
            known = dict(_REPLY)
            known[draws.text()] = draws.value(5)
            if draws.below(2):
                known["choices"] = [{draws.text(): draws.value(4) for _ in range(4)}, *_REPLY["choices"]]
            data = json.dumps(known).encode()
        one_line(error_words(data) + parameter_in(data))
        for key in ("choices", "rewards"):
            try:
                reply = reply_of(data, key, dict if key == "choices" else object)
            except Trouble:
                continue
            if reply is None:
                continue
            if key == "rewards":
                numbers_in(reply[key])
                continue
            found = completions_of(reply)
            # each reply is journalled as it arrives, so that nothing in it may be impossible to store
            keys = [(str(number), place, one) for place, one in enumerate(found)]
            number += 1
            journal.exchange(keys, [])
            for name, place, one in keys:
                kept = journal.reply(name, place)
                assert isinstance(kept, type(one))
                assert isinstance(one, Failure) or (isinstance(kept, Completion) and kept.text == one.text)

    return feed


def _refusals(folder: Path) -> Feed:
    from fittest.evo.backends.openai_format import refusal

    def feed(data: bytes) -> None:
        draws = Draws(data)
        status, text = 400 + draws.below(200), data.decode(errors="replace")
        error = refusal(status, {"Retry-After": text}, text)
        wait = getattr(error, "retry_after", None)
        assert wait is None or 0 <= wait < math.inf

    return feed


_TEXTS = (
    "A task: name a city.</task>\n<task>Another one?</task>", "1. One.\n2. Two.\n3.",
    "Sure, here is a task:\n\n```\nX\n```",
    "[[A]] is better than [[B]]", "Score: 7/10", "**Rating:** 8 out of 10\n", "Verdict: not useful", "Score: 4",
    "<think>hm</think>Yes.", '["cooking", "travel"]', '[{"tag": "cooking"}]', "- cooking\n- travel",
    "[/INST] <|im_end|>", "Expected output: 3", "Answer: because", "Here's a new prompt:\n\"Name a city.\"",
    "\\boxed{7}", "As an AI I cannot",
)  # fmt: skip
_TEXT_SEEDS = [text.encode() for text in _TEXTS]
_TEXT_WORDS = [word.encode() for text in _TEXTS for word in text.split()] + [
    b"</task>",
    b"<task>",
    b"\n",
    b"  ",
    b"```",
]


def _text(use: Callable[[str], None]) -> Callable[[Path], Feed]:
    """A text as it comes from a model: any text that can be stored."""

    def feed(data: bytes) -> None:
        use(data.decode(errors="replace"))

    return lambda folder: feed


def _candidate(text: str) -> None:
    from fittest.operators.parsing import parse_candidate, unreadable_character

    found = parse_candidate(text, "length" if len(text) % 2 else "stop")
    if isinstance(found, str):
        assert found.strip()
        assert unreadable_character(found) is None


def _verdict(text: str) -> None:
    from fittest.fitness.judge.verdict import parse_verdict

    assert parse_verdict(text) in ("A", "B", None)


def _score(text: str) -> None:
    from fittest.fitness.rewards.judge import _parse_score

    score = _parse_score(text, 10.0)
    assert score is None or 0 <= score <= 10


def _votes(text: str) -> None:
    from fittest.fitness.baselines.prompt_judge import BINARY, POINTWISE

    assert BINARY.parse(text) in (True, False, None)
    vote = POINTWISE.parse(text)
    assert vote is None or 0 <= vote <= 5


def _tags(text: str) -> None:
    from fittest.evo.records import Completion
    from fittest.fitness.baselines.instag import read_tags

    (tags,) = read_tags([Completion(text, "stop", 0, 0)])
    assert tags is not None
    assert all(tag == tag.strip() != "" for tag in tags)


def _reasoning(text: str) -> None:
    from fittest.evo.reasoning import without_reasoning
    from fittest.evo.records import Completion

    inside = len(text) % 2 == 0
    split = without_reasoning(Completion(text, "stop", 0, 0), begins_inside=inside)
    assert split.text in text
    assert split.reasoning is None or len(split.text) + len(split.reasoning) <= len(text)


_BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _visible(text: str) -> None:
    from fittest.evo.visible import visible

    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(sign) in ("Cc", "Cs") or sign in _BIDI for sign in shown)


def _journal_rows(folder: Path) -> Feed:
    from fittest.evo.records import STAGES, Completion, Failure, Missing, Request, Sampling
    from fittest.runs.output.journal import SqliteJournal

    journal, number = SqliteJournal(":memory:"), 0
    sampling = Sampling()

    def feed(data: bytes) -> None:
        nonlocal number
        draws, number = Draws(data), number + 1
        text, reason = draws.text(64), draws.text()
        stage, key = STAGES[draws.below(len(STAGES))], f"{number}:{draws.text()}"
        reply = Completion(text, "stop", draws.below(256), draws.below(256), reasoning=draws.maybe_text())
        given = Failure(reason) if draws.below(4) == 3 else reply
        request = Request(stage, sampling, seed=1, prompt=text)
        journal.exchange([(key, 0, given)], [(key, request)])
        assert journal.reply(key, 0) == given
        value = Missing(reason) if draws.below(4) == 3 else draws.number()
        if isinstance(value, Missing) or (isinstance(value, float) and math.isfinite(value)):
            journal.record_measurements(reason, {key: value})
            assert journal.measurements(reason, [key]) == {key: value}

    return feed


def _journal_seed() -> bytes:
    from tempfile import TemporaryDirectory

    from fittest.evo.records import Completion, Milestone
    from fittest.runs.output.journal import SqliteJournal

    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with SqliteJournal(path) as journal:
            journal.exchange([(f"key {i}", 0, Completion("text", "stop", 1, 2)) for i in range(20)], [])
            journal.record_measurements("head", {f"{i}": float(i) for i in range(20)})
            journal.record_milestone(0, Milestone("born", 0))
            journal.event("stopped")
        return path.read_bytes()


def _journal_bytes(folder: Path) -> Feed:
    """A journal with a few bytes that differ: opened, read, and opened for writing, which may salvage it."""
    from fittest.runs.output.journal import SqliteJournal

    sound = _journal_seed()
    path = folder / "journal.sqlite"

    def feed(data: bytes) -> None:
        for stale in folder.iterdir():
            stale.unlink()
        draws, damaged = Draws(data), bytearray(sound)
        for _ in range(1 + draws.below(8)):
            place = (draws.below(256) << 8 | draws.below(256)) % len(damaged)
            size = 1 + draws.below(16)
            damaged[place : place + size] = bytes(draws.below(256) for _ in range(size))
        path.write_bytes(damaged if draws.below(4) else damaged[: draws.below(256) * len(damaged) // 256])
        for read_only in (True, False):
            try:
                with SqliteJournal(path, read_only=read_only) as journal:
                    for number in range(20):
                        journal.reply(f"key {number}", 0)
                    journal.measurements("head", [str(number) for number in range(20)])
                    journal.milestones()
                    journal.spent()
                    journal.seconds()
            except FittestError:
                continue

    return feed


def _survivor(draws: Draws, index: int = 0) -> dict[str, Any]:
    number = partial(_finite, draws)
    return {
        "prompt_id": f"{draws.below(256):02x}{index:014x}", "prompt": draws.text(40), "generation": draws.below(3),
        "slot": draws.below(3), "operator": draws.text(), "parents": [], "exemplars": [], "source": draws.maybe_text(),
        "licence": draws.maybe_text(), "chosen": draws.maybe_text(), "rejected": draws.maybe_text(),
        "chosen_reward": number(), "rejected_reward": number(), "rejected_length": draws.below(256),
        "reward_gap": number(), "diversity": number(), "n": draws.below(9), "in_population": draws.below(2) == 1,
        "chosen_truncated": draws.below(2) == 1, "rejected_truncated": None, "reward_id": draws.maybe_text(),
    }  # fmt: skip


def _finite(draws: Draws) -> float | None:
    number = draws.number()
    return float(number) if abs(number) < 1e300 else None


def _exported_rows(folder: Path) -> Feed:
    """Any texts through every format; the lines of a file give the same rows back."""
    from fittest.runs.output.exporters import EXPORTERS

    formats = [exporter.rows for exporter in EXPORTERS.built_in.values() if exporter.rows is not None]

    def feed(data: bytes) -> None:
        draws = Draws(data)
        more = {
            "system": draws.maybe_text(), "split": "train", "index": draws.below(256), "mixed_rewards": True,
            "reward_mean": _finite(draws), "reward_std": _finite(draws),
        }  # fmt: skip
        survivor = _survivor(draws) | more
        for rows in formats:
            for row in rows(survivor):
                line = json.dumps(row, ensure_ascii=False)
                assert "\n" not in line
                assert json.loads(line.encode().decode()) == row
                assert "prompt" not in row or row["prompt"][-1]["content"] == survivor["prompt"]

    return feed


def _exported_files(folder: Path) -> Feed:
    """Survivors with any texts exported to files of both kinds, which give the texts back, and to a card."""
    from fittest.runs.output.export import export
    from fittest.runs.output.survivors import SURVIVOR_SCHEMA

    run, formats = folder / "run", ("trl-preference", "trl-sft", "kto", "grpo", "verl", "prime-rl", "prompts")
    run.mkdir()

    def feed(data: bytes) -> None:
        draws = Draws(data)
        survivors = [_survivor(draws, index) for index in range(1 + draws.below(3))]
        pl.DataFrame(survivors, schema=SURVIVOR_SCHEMA).write_parquet(run / "survivors.parquet")
        to = formats[draws.below(len(formats))]
        out = folder / ("out.parquet" if draws.below(2) else "out.jsonl")
        for stale in folder.glob("out*"):
            stale.unlink()
        result = export(run, to=to, out=out)
        rows = (
            pl.read_parquet(out).to_dicts()
            if out.suffix == ".parquet"
            else [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
        )
        assert len(rows) == result.rows
        if to in ("grpo", "verl", "prime-rl", "prompts"):
            prompts = [row["prompt"] if to == "prompts" else row["prompt"][-1]["content"] for row in rows]
            assert prompts == [survivor["prompt"] for survivor in survivors]

    return feed


def _card(folder: Path) -> Feed:
    from fittest.runs.output.card import data_card
    from fittest.runs.output.survivors import SURVIVOR_SCHEMA

    (folder / "run.toml").write_text(tomli_w.dumps({"engine": {"kind": "openai", "model": "m"}}))

    def feed(data: bytes) -> None:
        draws = Draws(data)
        survivors = pl.DataFrame([_survivor(draws)], schema=SURVIVOR_SCHEMA)
        summary = {"warnings": [draws.text(), draws.text()]}
        (folder / "summary.json").write_text(json.dumps(summary))
        data_card(folder, survivors, [draws.text()], title=draws.text())

    return feed


_TABLE_WORDS = [f'"{name}"'.encode() for name in _NAMES] + [
    b": ",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"\r\n",
    b"\xef\xbb\xbf",
]
_TOML_SEED = tomli_w.dumps(null_tables()).encode()
_TOML_WORDS = [word for word in _TOML_SEED.replace(b"\n", b" ").split() if len(word) > 1] + [
    b"[[",
    b"'''",
    b'"""',
    b"1979-05-27",
]
_THRESHOLDS = json.dumps({
    "schema": 1, "reward_id": "head", "length_unit": "chars", "n": 4, "min_reward": 0.5, "min_length": 20,
    "max_gap": None, "cuts": {"m1": [0.5, None]}, "band": {},
}).encode()  # fmt: skip
_SUMMARY = json.dumps({"stop_reason": "generations", "survivors": 3, "warnings": ["w"]}).encode()
_ANY = [bytes(range(256)), b"\x01" * 40, b"\x06\x03" * 40, b"\x03\x02\x01\x00" * 30]

_READERS: dict[str, tuple[Callable[[Path], None], list[dict[str, Any]]]] = {
    "pool": (_pool, _ROWS), "responses": (_responses, _ROWS), "pairs": (_pairs, _PAIRS),
}  # fmt: skip

TARGETS: dict[str, Target] = {
    **{
        f"{what} {ending}": Target(partial(_file, read, f"rows.{ending}"), seeds(rows), _TABLE_WORDS)
        for what, (read, rows) in _READERS.items()
        for ending, seeds in {
            "jsonl": lambda rows: [*(_lines([row]) for row in rows), _lines(rows)],
            "json": lambda rows: [*(json.dumps([row], indent=1).encode() for row in rows)],
            "csv": lambda rows: [_csv([row]) for row in rows],
        }.items()
    },
    **{f"{what} values": Target(partial(_json_rows, read), _ANY) for what, (read, _) in _READERS.items()},
    "pool txt": Target(partial(_file, _pool, "rows.txt"), [b"One prompt.\nAnother\r\n"]),
    "pool gz": Target(partial(_file, _pool, "rows.jsonl.gz"), [gzip.compress(_lines(_ROWS), mtime=0)]),
    **{
        f"{what} parquet": Target(partial(_file, read, "rows.parquet"), [_parquet(rows[:1]), _parquet(rows[-1:])])
        for what, (read, rows) in _READERS.items()
    },
    "toml": Target(_toml, [_TOML_SEED, *(line for line in _TOML_SEED.splitlines())], _TOML_WORDS),
    "set": Target(_override, [b"run.seed=7", b'engine.extra_body={"a" = [1]}', b"pool.path=x"], _TOML_WORDS),
    "configuration": Target(_sections, _ANY),
    "prices": Target(_prices, _ANY),
    "thresholds": Target(_thresholds, [_THRESHOLDS], [b"null", b"1e999", b"[", b'"cuts"', b'"m3"', b'"band"']),
    "folder": Target(_folder, [_SUMMARY, b"[1]", b"null"], [b'"stop_reason"', b"null", b"[", b"{"]),
    "reply": Target(partial(_reply, structured=False), [json.dumps(_REPLY).encode()], [
        f'"{word}"'.encode() for word in _REPLY_WORDS
    ], share=2),
    "reply values": Target(partial(_reply, structured=True), _ANY),
    "refusal": Target(
        _refusals, [b"120", b"Wed, 21 Oct 2015 07:28:00 GMT", b"1e9"], [b"-", b"GMT", b"Mon, ", b"+9999"]
    ),
    "candidate": Target(_text(_candidate), _TEXT_SEEDS, _TEXT_WORDS, share=3),
    "verdict": Target(_text(_verdict), _TEXT_SEEDS, _TEXT_WORDS, share=3),
    "score": Target(_text(_score), _TEXT_SEEDS, _TEXT_WORDS, share=3),
    "votes": Target(_text(_votes), _TEXT_SEEDS, _TEXT_WORDS, share=3),
    "tags": Target(_text(_tags), _TEXT_SEEDS, _TEXT_WORDS),
    "reasoning": Target(_text(_reasoning), _TEXT_SEEDS, [b"<think>", b"</think>", b" ", b"\n"], share=3),
    "visible": Target(
        _text(_visible), ["a\u202eb\x1b[2J".encode(), *_TEXT_SEEDS], ["\u2028".encode(), b"\x1b", b"\x85"]
    ),
    "journal rows": Target(_journal_rows, _ANY),
    "journal bytes": Target(_journal_bytes, _ANY),
    "exported rows": Target(_exported_rows, _ANY),
    "exported files": Target(_exported_files, _ANY),
    "card": Target(_card, _ANY),
}  # fmt: skip


def _fault(kind: str, folder: Path) -> Feed:
    fed = 0

    def feed(data: bytes) -> None:
        nonlocal fed
        fed += 1
        if fed == 100:
            if kind == "raises":
                raise ValueError("as planned")
            if kind == "dies":
                os.abort()
            time.sleep(10.5)

    return feed


SELF_TESTS = {kind: Target(partial(_fault, kind), [b"{}"]) for kind in ("raises", "dies", "is slow")}
"""By these the fuzzer itself is tested: each goes wrong at its hundredth input."""
