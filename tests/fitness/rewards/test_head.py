"""The preference head scores a pair for itself, leaves out what it cannot read, and agrees with its card."""

from __future__ import annotations

import gzip
import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fittest.evo.errors import FittestError
from fittest.evo.records import Missing
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.fitness.embedders.minilm import MiniLM
from fittest.fitness.rewards.features import FEATURES, measure
from fittest.fitness.rewards.head import PreferenceHead

CARD = PreferenceHead.COEFFICIENTS.with_name("HEAD_CARD.md")
HASHED = PreferenceHead(embedder=HashEmbedder())
PROMPT = "How do I keep basil alive on a window sill?"
ANSWER = (
    "Put the pot where it gets six hours of sun, and water the soil whenever its surface is dry. Pinch off the tops"
    " every week or two, so that it grows bushy and does not flower. Holes in the pot keep the roots from rotting."
)
WORSE = {
    "empty": "",
    "refusal": "I'm sorry, I don't know. I can't help with that.",
    "question": "What?",
    "off topic": "The first steam locomotives ran in Wales in 1804. Railways then spread over Britain within decades.",
    "cut off": ANSWER[: ANSWER.index("flower")],
    "looped": "Put the pot where it gets six hours of sun, " * 6,
}
texts = st.text(max_size=300)


@pytest.fixture(scope="module")
def head(minilm_folder: Path) -> Iterator[PreferenceHead]:
    import torch

    threads = torch.get_num_threads()
    # on a busy machine the threads of one forward pass wait for each other, ten times as long as it takes
    torch.set_num_threads(1)
    yield PreferenceHead(embedder=MiniLM(folder=minilm_folder))
    torch.set_num_threads(threads)


def reward(head: PreferenceHead, prompt: str, response: str) -> float:
    (score,) = head.score([prompt], [response])
    assert isinstance(score, float)
    return score


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.tuples(texts, texts), max_size=6))
def test_a_reward_depends_on_its_pair_alone(pairs: list[tuple[str, str]]) -> None:
    together = HASHED.score([prompt for prompt, _ in pairs], [response for _, response in pairs])
    assert together == [reward(HASHED, prompt, response) for prompt, response in pairs]


@given(texts, texts)
def test_rubbish_has_a_bounded_reward(prompt: str, response: str) -> None:
    most = 4 * abs(HASHED.coefficients.weight).sum()
    assert abs(reward(HASHED, prompt, response)) <= most


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("prompt_covered", "Basil on a window sill wants sun.", "It wants sun."),
        ("new_content", "Water, sun and a deep pot.", "Keep basil alive."),
        ("log_words_if_asked", "Water it every day.", "Water it."),
        ("sentences", "Water it. Turn it!", "Water it, turn it"),
        ("sentence_length", "Water it and turn it.", "Water it. Turn it."),
        ("list_items", "1. Water\n2) Sun\n- Pot", "1.5 litres of water\nmid-day sun"),
        ("asks", "Is it dry? Then water it.", "When it is dry, water it."),
        ("ends_asking", "Water it. Is it dry?", "Is it dry? Water it."),
        ("only_asks", "Which kind? How old?", "Which kind? Water it."),
        ("refusals", "Unfortunately, I can’t say; I don't know.", "I can say."),
        ("apologies", "My apologies, I am sorry.", "My pleasure."),
        ("first_person", "I’ve kept mine alive myself; ask me.", "You kept yours alive."),
        ("agrees", "Yes, you can.", "Yesterday you could."),
        ("links", "See https://basil.example or www.basil.org", "See the gardener."),
        ("quotes", "The “sweet” basil", "The sweet basil"),
        ("digits", "In 1997", "Back then"),
        ("finished", "Water it daily.”\n", "Water it dai"),
        ("repeated_pairs", "water it, water it, water it", "water it, turn it, prune it"),
        ("capitals", "Genovese from Liguria", "basil from abroad"),
        ("word_length", "photosynthesis necessitates illumination", "it must be lit"),
        ("function_words", "it is in the sun and it is dry", "sunny window dry soil"),
        ("commas", "sun, water, soil", "sun water soil"),
    ],
)
def test_a_feature_is_larger_where_there_is_more_of_it(name: str, more: str, less: str) -> None:
    position = [feature.name for feature in FEATURES].index(name)
    assert measure(PROMPT, more, 0.5)[position] > measure(PROMPT, less, 0.5)[position]


@pytest.mark.parametrize("unit", ["a", "a ", "!", ". ", "\n", "\n- ", "漢", "🙂", "1", "'", "www.", "\x00"])
def test_monotonous_text_up_to_the_context_is_scored_at_once(unit: str) -> None:
    text = (unit * PreferenceHead.CONTEXT)[: PreferenceHead.CONTEXT]
    started = time.perf_counter()
    assert math.isfinite(reward(HASHED, text, text))
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(("prompt", "response"), [("a" * (PreferenceHead.CONTEXT + 1), "b"), ("a", "b " * 50_000)])
def test_a_pair_beyond_the_context_is_missing_and_costs_nothing(prompt: str, response: str) -> None:
    class Untouched(HashEmbedder):
        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise AssertionError("embedded a pair that is too long")

    (score,) = PreferenceHead(embedder=Untouched()).score([prompt], [response])
    assert isinstance(score, Missing)
    assert score.reason.startswith("pair longer than the head's context")


def test_a_pair_too_long_leaves_its_company_alone() -> None:
    first, middle, last = HASHED.score([PROMPT] * 3, [ANSWER, "x" * 100_000, WORSE["refusal"]])
    assert isinstance(middle, Missing)
    assert (first, last) == (reward(HASHED, PROMPT, ANSWER), reward(HASHED, PROMPT, WORSE["refusal"]))


def test_the_fingerprint_follows_coefficients_and_embedder(tmp_path: Path) -> None:
    copy = tmp_path / "head.json"
    copy.write_bytes(PreferenceHead.COEFFICIENTS.read_bytes())
    assert PreferenceHead(embedder=HashEmbedder(), path=copy).fingerprint == HASHED.fingerprint
    copy.write_text(PreferenceHead.COEFFICIENTS.read_text(encoding="utf-8").replace("0.", "1.", 1), encoding="utf-8")
    others = (
        PreferenceHead(embedder=HashEmbedder(), path=copy),
        PreferenceHead(embedder=HashEmbedder(dimension=64)),
    )
    assert HASHED.fingerprint not in {other.fingerprint for other in others}


def test_coefficients_for_other_features_are_refused(tmp_path: Path) -> None:
    rows = json.loads(PreferenceHead.COEFFICIENTS.read_text(encoding="utf-8"))
    rows["features"]["charm"] = rows["features"].pop("relevance")
    path = tmp_path / "head.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(FittestError, match=r"head\.json: found features .*charm; expected relevance"):
        PreferenceHead(embedder=HashEmbedder(), path=path).score([PROMPT], [ANSWER])


def test_the_card_shows_the_shipped_weights() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| ([+-][\d.]+) \|$", CARD.read_text(encoding="utf-8"), re.MULTILINE))
    assert list(rows) == [feature.name for feature in FEATURES]
    assert [float(weight) for weight in rows.values()] == pytest.approx(HASHED.coefficients.weight, abs=0.0005)


@pytest.mark.embedded
def test_the_coefficients_belong_to_the_embedded_model(head: PreferenceHead) -> None:
    assert json.loads(PreferenceHead.COEFFICIENTS.read_text(encoding="utf-8"))["embedder"] == head.embedder.fingerprint


@pytest.mark.embedded
@pytest.mark.parametrize("kind", WORSE)
def test_a_good_answer_is_rewarded_above_a_bad_one(head: PreferenceHead, kind: str) -> None:
    assert reward(head, PROMPT, ANSWER) > reward(head, PROMPT, WORSE[kind])


@pytest.mark.embedded
def test_rewards_have_the_same_bits_in_any_company_and_order(head: PreferenceHead) -> None:
    alone = {response: reward(head, PROMPT, response) for response in WORSE.values()}
    for order in itertools.islice(itertools.permutations(alone), 0, None, 240):
        assert head.score([PROMPT] * len(order), order) == [alone[response] for response in order]


@pytest.mark.embedded
@pytest.mark.slow
def test_the_head_agrees_with_people_as_often_as_its_card_says(head: PreferenceHead, shared_data: Path) -> None:
    claimed = re.search(r"\| helpful-base \|.*?([\d.]+)% \(", CARD.read_text(encoding="utf-8"))
    assert claimed
    met = []
    with gzip.open(shared_data / "judging" / "hh_rlhf_helpful-base_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, 0, None, 20):
            row = json.loads(line)
            context, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
            rejected = row["rejected"].rpartition("\n\nAssistant:")[2]
            prompt = context.rpartition("\n\nHuman:")[2].strip()
            better, worse = head.score([prompt, prompt], [chosen.strip(), rejected.strip()])
            assert isinstance(better, float)
            assert isinstance(worse, float)
            met.append(better > worse)
    accuracy = float(claimed[1]) / 100
    standard_error = math.sqrt(accuracy * (1 - accuracy) / len(met))
    assert sum(met) / len(met) == pytest.approx(accuracy, abs=3 * standard_error)
