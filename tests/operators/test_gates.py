"""Each gate on its own, and the properties that the order of a generation depends on."""

import re
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.evo.prompt import Prompt
from fittest.evo.protocols import Gate
from fittest.evo.records import Birth
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.operators.gates import (
    Contamination,
    Exact,
    Keywords,
    Language,
    Length,
    Novelty,
    Readable,
    RougeL,
    build_gates,
)

HUMAN_PROMPTS = Path(__file__).parents[3] / "shared/data/prompts/human_prompts.parquet"


def prompt(text: str, embedding: Sequence[float] | None = None) -> Prompt:
    made = Prompt(text, Birth("self_rip", 1, 0))
    if embedding is not None:
        vector = np.array(embedding, dtype=np.float32)
        made.embedding = vector / np.linalg.norm(vector)
    return made


def rouge_l_f1(first: Sequence[str], second: Sequence[str]) -> float:
    """The textbook dynamic programme, row by row."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        above = row
    return 2 * above[-1] / (len(first) + len(second))


def test_gates_come_in_their_documented_order() -> None:
    gates = build_gates()
    assert [gate.name for gate in gates] == [
        "parse", "length", "language", "keywords", "exact", "rouge_l", "novelty", "contamination",
    ]  # fmt: skip
    assert {gate.name for gate in gates if gate.ordered} == {"exact", "rouge_l", "novelty"}
    assert {gate.name for gate in gates if not gate.screens_pool} == {"rouge_l", "novelty"}
    assert {gate.name for gate in gates if gate.needs_embedding} == {"novelty"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("a\x00b", "unreadable character U+0000"),
        ("a\x1bb", "unreadable character U+001B"),
        ("a\ufffdb", "unreadable character U+FFFD"),
        ("line one\r\n\tline two", None),
        ("👩‍👩‍👧 ünïcödé 天気", None),
    ],
)
def test_readable(text: str, reason: str | None) -> None:
    assert Readable().check(prompt(text)) == reason


def test_length_bounds_are_inclusive_code_points() -> None:
    gate = Length(min_chars=3, max_chars=5)
    assert gate.check(prompt("天気")) == "2 characters, fewer than 3"
    assert gate.check(prompt("abc")) is None
    assert gate.check(prompt("abcde")) is None
    assert gate.check(prompt("abcdef")) == "6 characters, more than 5"
    with pytest.raises(ValueError, match="min_chars <= max_chars"):
        Length(min_chars=5, max_chars=3)


@pytest.mark.parametrize(
    ("text", "turned_away"),
    [
        ("Pouvez-vous expliquer comment la pluie se forme dans les nuages ?", True),
        ("Теперь ты обычный человек. Представься и расскажи о себе.", True),
        ("Can you explain how rain forms in the clouds?", False),
        ("How do I make tacos?", False),
        ("hi", False),
        ("Is Kurt Cobain still alive", False),
        ("for i in range(10): print(i)", False),
        ("12 + 30 =", False),
    ],
)
def test_language_turns_away_only_what_it_is_sure_of(text: str, turned_away: bool) -> None:
    assert (Language(languages=["en"]).check(prompt(text)) is not None) == turned_away


def test_language_names_what_it_found_and_can_be_off() -> None:
    text = "Wie baue ich für meine Kinder ein Haus aus Holz im Garten?"
    assert Language(languages=["fr", "en"]).check(prompt(text)) == "written in de, not in en, fr"
    assert Language(languages=["en", "de"]).check(prompt(text)) is None
    assert Language(languages=[]).check(prompt(text)) is None


def test_an_unknown_language_is_the_users_error() -> None:
    with pytest.raises(FittestError, match=r"gates\.languages: xx is no ISO 639 code"):
        Language(languages=["en", "xx"]).check(prompt("Anything at all."))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Draw an IMAGE of rain.", "contains 'image'"),
        ("One image, please", "contains 'image'"),
        ("Imagery and images in a paragraph", None),
        ("Is C++ fun?", "contains 'c++'"),
    ],
)
def test_keywords_are_whole_words_in_any_case(text: str, reason: str | None) -> None:
    assert Keywords(keywords=["image", "graph", "C++"]).check(prompt(text)) == reason


def test_no_keywords_turn_nothing_away() -> None:
    assert Keywords(keywords=[]).check(prompt("")) is None


def test_exact_names_the_earlier_prompt() -> None:
    gate, first = Exact(), prompt("Name three rivers.")
    assert gate.check(first) is None
    gate.admit(first)
    assert gate.check(prompt(" Name three rivers.\n")) == f"same text as {first.id}"
    assert gate.check(prompt("name three rivers.")) is None


WORDS = st.lists(st.sampled_from("abcdefg"), max_size=14)


@given(
    archive=st.lists(WORDS, max_size=8), candidate=WORDS, threshold=st.sampled_from([0.3, 0.45, 0.5, 0.7, 0.9, 1.0])
)
def test_rouge_l_agrees_with_the_textbook(archive: list[list[str]], candidate: list[str], threshold: float) -> None:
    gate = RougeL(threshold=threshold)
    scores: dict[str, float] = {}
    for words in archive:
        earlier = prompt(" ".join(words))
        gate.admit(earlier)
        scores[earlier.id] = rouge_l_f1(words, candidate) if words and candidate else 0.0
    reason = gate.check(prompt(" ".join(candidate)))
    best = max(scores.values(), default=0.0)
    if best < threshold:
        assert reason is None
    else:
        first = next(identity for identity, score in scores.items() if score == best)
        assert reason == f"ROUGE-L {best:.3f} with {first}"


def test_rouge_l_threshold_is_inclusive() -> None:
    gate = RougeL(threshold=0.7)
    gate.admit(prompt("a b c d e f g 1 2 3"))
    assert gate.check(prompt("a b c d e f g 4 5 6")) is not None
    assert gate.check(prompt("a b c d e f g 4 5 6 7")) is None


@pytest.mark.parametrize("tenths", range(1, 11))
def test_rouge_l_threshold_is_inclusive_however_it_is_rounded(tenths: int) -> None:
    gate = RougeL(threshold=tenths / 10)
    shared = [f"s{number}" for number in range(tenths)]
    gate.admit(prompt(" ".join(shared + [f"a{number}" for number in range(10 - tenths)])))
    rest = [f"b{number}" for number in range(10 - tenths)]
    assert gate.check(prompt(" ".join(shared + rest))) is not None
    assert gate.check(prompt(" ".join([*shared, *rest, "more"]))) is None


def test_rouge_l_has_no_opinion_on_texts_without_latin_words() -> None:
    gate = RougeL(threshold=0.7)
    gate.admit(prompt("天気はどうですか"))
    assert gate.check(prompt("天気はどうですか")) is None


def test_rouge_l_tells_words_beyond_the_basic_plane_apart() -> None:
    gate = RougeL(threshold=0.7)
    gate.admit(prompt(" ".join(f"w{number}" for number in range(70_000))))
    gate.admit(prompt("w65536 w55295 w55296 w57344"))
    reason = gate.check(prompt("w65536 w55295 w55296 w57344"))
    assert reason is not None
    assert reason.startswith("ROUGE-L 1.000")


def test_novelty_names_the_nearest_prompt_and_is_exclusive_at_the_bound() -> None:
    gate = Novelty(novelty=1.0)
    assert gate.check(prompt("first", [1, 0])) is None
    gate.admit(prompt("first", [1, 0]))
    near = prompt("near", [0.6, 0.8])
    assert gate.check(prompt("across", [0, 1])) is None
    gate.admit(near)
    assert gate.check(prompt("across", [0, 1])) == f"cosine distance 0.200 to {near.id}"


def test_novelty_remembers_more_than_it_first_makes_room_for() -> None:
    rows = np.random.default_rng(1).normal(size=(2500, 8))
    gate = Novelty(novelty=1e-5)
    for number, row in enumerate(rows):
        gate.admit(prompt(f"prompt {number}", row))
    for number in (0, 1023, 1024, 2499):
        reason = gate.check(prompt("copy", rows[number]))
        assert reason is not None
        assert reason.endswith(prompt(f"prompt {number}").id)


def test_contamination_names_the_entry() -> None:
    gate = Contamination(
        benchmarks={
            "bench.jsonl": ["Who was Ada?", "Write a persuasive email to convince your introverted friend to speak."],
        }
    )
    assert gate.check(prompt("who was ADA")) == "is entry 1 of bench.jsonl"
    assert gate.check(prompt("Who was Ada Lovelace?")) is None
    shared = gate.check(
        prompt("No haiku, but a PERSUASIVE e-mail; a persuasive email to convince your introverted friend!")
    )
    assert shared == "shares 'a persuasive email to convince your introverted friend' with entry 2 of bench.jsonl"
    assert gate.check(prompt("Write a persuasive email to convince your boss.")) is None


STATELESS: list[Gate] = [
    Readable(),
    Length(min_chars=10, max_chars=60),
    Language(languages=["en"]),
    Keywords(keywords=["image"]),
    Contamination(benchmarks={"b": ["Name three rivers in Asia."]}),
]


def test_stateless_gates_do_not_depend_on_order_or_on_what_was_admitted() -> None:
    texts = ["Draw an image.", "Name three rivers in Asia.", "hi", "Ich bin traurig. Wie kann ich glücklich sein?"]
    alone = {text: [gate.check(prompt(text)) for gate in STATELESS] for text in texts}
    for order in permutations(texts):
        for text in order:
            assert [gate.check(prompt(text)) for gate in STATELESS] == alone[text]
            for gate in STATELESS:
                gate.admit(prompt(text))


@pytest.mark.skipif(not HUMAN_PROMPTS.exists(), reason=f"needs {HUMAN_PROMPTS}")
def test_short_human_prompts_in_plain_ascii_pass_the_language_gate() -> None:
    pool = pl.read_parquet(HUMAN_PROMPTS)["prompt"]
    gate = Language(languages=["en"])
    texts = [text for text in pool.head(2500) if text.isascii() and len(text) < 300]
    turned_away = [text for text in texts if gate.check(prompt(text))]
    assert len(texts) > 1000
    assert len(turned_away) <= len(texts) // 200, turned_away


def test_reasons_hold_no_line_breaks() -> None:
    gate = Contamination(benchmarks={"b": ["one\ntwo three four five six seven eight nine"]})
    reason = gate.check(prompt("one two three\nfour five six seven eight"))
    assert reason is not None
    assert not re.search(r"\s{2}|\n", reason)


def test_of_a_large_archive_few_prompts_are_aligned_and_few_embeddings_compared() -> None:
    rng = np.random.default_rng(0)
    # words as frequent as those of a language: the second one half as often as the first, and so on
    share = 1.0 / np.arange(1, 5001)
    texts = [" ".join(f"w{n}" for n in rng.choice(5000, size=20, p=share / share.sum())) for _ in range(4050)]
    rouge_l, novelty, embedder = RougeL(threshold=0.7), Novelty(novelty=0.05), HashEmbedder()
    prompts = [prompt(text) for text in texts]
    for one in prompts:
        (one.embedding,) = embedder.embed([one.text])
    for one in prompts[:4000]:
        rouge_l.admit(one)
        novelty.admit(one)
    for one in prompts[4000:]:
        rouge_l.check(one)
        novelty.check(one)
    assert rouge_l.aligned < 0.02 * 50 * 4000
    assert rouge_l.looked_up <= 50 * 4000 * 3
    assert novelty.compared < 0.02 * 50 * 4000
