"""The filters that RIP was compared with: word overlap, tags by a model, and votes of a model."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.prompt import prompt_id
from fittest.evo.records import Completion, Failure, Request, Sampling
from fittest.evo.seeds import SeedTree, Stream
from fittest.fitness.baselines.instag import _parse_tags, difficulty, diversity, read_tags, tag_requests
from fittest.fitness.baselines.jaccard import jaccard_overlap
from fittest.fitness.baselines.prompt_judge import BINARY, POINTWISE
from fittest.fitness.baselines.wording import _fenced

SAMPLING = Sampling(temperature=0.7, max_tokens=64, stop=("###",))
PROMPTS = ["How do I bake bread?", "Write a haiku.\nAbout rain.", "¿Qué hora es?"]
HOSTILE = ["```", "````\nTags: [", "<|im_end|>", "</s>", "{{ prompt }}", "{% raw %}", "\n\n", "\r", "\x00", ""]
prompt_texts = st.text() | st.lists(st.sampled_from(HOSTILE)).map("".join)
some_tags = st.lists(st.none() | st.lists(st.sampled_from("abcdef"), unique=True, max_size=5).map(tuple), max_size=40)


def reply(text: str) -> Completion:
    return Completion(text, "stop", 1, 1)


def every_request(prompts: list[str], *, seed: int = 7, votes: int = 5) -> list[Request]:
    seeds = SeedTree(seed)
    return [
        *tag_requests(prompts, seeds, SAMPLING),
        *BINARY.requests(prompts, seeds, SAMPLING, votes=votes),
        *POINTWISE.requests(prompts, seeds, SAMPLING, votes=votes),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "overlap"),
    [
        ("The cat sat.", "the CAT ran!", 2 / 4),
        ("a a a b", "b a", 1.0),
        ("one two", "three four", 0.0),
        ("words", "", 0.0),
        ("", "", 1.0),
        ("...", "", 1.0),
        ("Straße Ärger", "ärger", 1 / 2),
    ],
)
def test_overlap_counts_words_once_in_any_case(chosen: str, rejected: str, overlap: float) -> None:
    assert jaccard_overlap([chosen], [rejected]).tolist() == [overlap]


def test_overlap_is_missing_where_a_response_is() -> None:
    assert np.isnan(jaccard_overlap([None, "a", None, "a"], ["a", None, None, "a"])).tolist() == [True] * 3 + [False]


@given(st.lists(st.sampled_from("abcde")), st.lists(st.sampled_from("abcde")))
def test_overlap_is_symmetric_and_grows_with_shared_words(left: list[str], right: list[str]) -> None:
    there, back = jaccard_overlap([" ".join(left), " ".join(right)], [" ".join(right), " ".join(left)])
    assert there == back
    (grown,) = jaccard_overlap([" ".join([*left, "new"])], [" ".join([*right, "new"])])
    assert grown > there or there == 1


def test_requests_are_judgments_with_a_seed_for_each_prompt_and_vote() -> None:
    seeds = SeedTree(7)
    for ask in (BINARY.requests, POINTWISE.requests):
        requests = ask(PROMPTS, seeds, SAMPLING, votes=3)
        expected = [seeds.engine_seeds(Stream.JUDGE, int(prompt_id(prompt), 16), count=3) for prompt in PROMPTS]
        assert [request.seed for request in requests] == [seed for votes in expected for seed in votes]
        assert [request.sample for request in requests] == [0, 1, 2] * 3
    requests = every_request(PROMPTS)
    assert len(requests) == 3 + 15 + 15
    assert {request.stage for request in requests} == {"judge"}
    assert len({(request.prompt, request.seed) for request in requests}) == len(requests)


def test_more_votes_leave_the_first_ones_alone() -> None:
    few, many = (BINARY.requests(PROMPTS[:1], SeedTree(7), SAMPLING, votes=votes) for votes in (2, 5))
    assert many[:2] == few
    assert BINARY.requests(PROMPTS[1:], SeedTree(7), SAMPLING) == BINARY.requests(PROMPTS, SeedTree(7), SAMPLING)[5:]
    assert BINARY.requests(PROMPTS, SeedTree(8), SAMPLING)[0].seed != few[0].seed


def test_sampling_is_kept_and_the_answer_has_an_end() -> None:
    for request in every_request(PROMPTS):
        assert (request.sampling.temperature, request.sampling.max_tokens) == (0.7, 64)
        assert request.sampling.stop[0] == "###"
        assert request.prompt is not None
        worked_examples = request.prompt.split("\nMessage:\n")[1:-1]
        assert len(worked_examples) >= 4
        for example in worked_examples:
            answer = re.split(r"```\n(?:Tags|Reason):", example)[1] + "\n"
            assert any(stop in answer for stop in request.sampling.stop[1:])


@given(prompt_texts)
def test_a_prompt_stays_a_quotation(text: str) -> None:
    fence, *_, last = _fenced(text).split("\n")
    assert fence == last
    assert re.fullmatch("`{3,}", fence)
    assert _fenced(text).count(fence) == 2
    assert not re.search(r"<\||</?s>", _fenced(text))
    for request in every_request([text], votes=1):
        assert request.prompt is not None
        assert f"\nMessage:\n{_fenced(text)}\n" in request.prompt


@given(prompt_texts)
def test_a_quotation_keeps_every_visible_character(text: str) -> None:
    inside = "".join(_fenced(text).split("\n")[1:-1])
    assert "".join(inside.split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('["Recipe Request", "vegan-cooking", "cost_estimate"]', ("recipe request", "vegan cooking", "cost estimate")),
        ('Sure! Here you go:\n```json\n["a", "b"]\n```\nAnything else?', ("a", "b")),
        (
            '[{"tag": "Baking", "explanation": "bread, cake"}, {"tag": "children\'s food"}]',
            ("baking", "children s food"),
        ),
        ('[{"tag": "baking", "explanation": "cut o', ("baking",)),
        ('{"tags": ["a b", "c"]}', ("a b", "c")),
        ('["recipe", "dish", "foo', ("recipe", "dish")),
        ('["science", "science fiction", "science facts"', ("science", "science fiction", "science facts")),
        ("['baking', 'children's food', 'cost']", ("baking", "children s food", "cost")),
        ("[baking, cost]", ("baking", "cost")),
        ("- baking: how it is done\n- **cost** (rough)\n- time, place", ("baking", "cost", "time", "place")),
        ("Here are the tags:\n\n1. baking\n2) cost – in euros\n", ("baking", "cost")),
        ("Tags: baking, cost; time.", ("baking", "cost", "time")),
        ("baking\ncost", ("baking", "cost")),
        ("Translation", ("translation",)),
        ('["actor", "Actor ", "actor actor", "ACTOR!"]', ("actor",)),
        ('["ﬁne dining", "日本 料理", "हिन्दी"]', ("fine dining", "日本 料理", "हिन्दी")),
        ('["This message asks for a recipe of bread", "baking"]', ("baking",)),
        ('["", "!!!"]', ()),
        ("[]", ()),
        ("", ()),
        ("```\n\n```", ()),
        ("Sure!", ()),
        ("I'm sorry, I can't help.", ()),
        ("The answer is:\n\nThe answer is:\n\nThe answer is", ()),
        ("The task is to find the wavelengths of light emitted by metals.", ()),
        ('```json\n{\n  "type": "response",\n  "body": {\n    "type": "response",', ()),
        ("- Computer organization refers to the structure, including the design, of computer systems.", ()),
        ("[" * 5000, ()),
    ],
)
def test_tags_are_read_as_small_models_write_them(text: str, tags: tuple[str, ...]) -> None:
    assert _parse_tags(text) == tags


@given(st.lists(st.text()))
def test_read_tags_are_clean_and_reading_them_again_changes_nothing(texts: list[str]) -> None:
    for text in (*texts, ", ".join(texts), "\n- ".join(["", *texts])):
        tags = _parse_tags(text)
        assert len(set(tags)) == len(tags)
        for tag in tags:
            assert tag == " ".join(tag.split())
            assert 1 <= len(tag.split()) <= 5
        assert _parse_tags(str(list(tags)).replace("'", '"')) == tags


def test_replies_go_on_where_the_request_stopped() -> None:
    request = tag_requests(PROMPTS[:1], SeedTree(7), SAMPLING)[0]
    assert request.prompt is not None
    assert request.prompt.endswith('\nTags: ["')
    replies = [reply('recipe request", "baking"'), Failure("too long"), reply("\n")]
    assert read_tags(replies) == [("recipe request", "baking"), None, ()]


def test_difficulty_keeps_prompts_with_enough_tags() -> None:
    tags = [("a", "b"), ("a",), (), None, ("a", "b", "c")]
    assert difficulty(tags).tolist() == [True, False, False, False, True]
    assert difficulty(tags, 0).tolist() == [True, True, True, False, True]
    assert difficulty(tags, 4).tolist() == [False] * 5


def test_diversity_walks_from_many_tags_to_few_and_fills_each_tag() -> None:
    tags = [("a",), ("a", "b"), ("b",), ("a", "b", "c"), None, ("rare",), ("a",), ("c",), ()]
    kept = diversity(tags, min_frequency=2, max_per_tag=2)
    # 3 has a, b, c; 1 fills a and b; 0, 2 and 6 find theirs full; 7 fills c; "rare" stands on one prompt only
    assert np.flatnonzero(kept).tolist() == [1, 3, 7]
    assert np.flatnonzero(diversity([("a",)] * 9)).tolist() == [0, 1, 2]
    assert not diversity([("a",)] * 5).any()
    assert diversity([]).tolist() == []


@given(some_tags, st.integers(1, 6), st.integers(1, 4))
def test_diversity_covers_every_common_tag_and_keeps_nobody_in_vain(
    tags: list[tuple[str, ...] | None], min_frequency: int, max_per_tag: int
) -> None:
    kept = diversity(tags, min_frequency=min_frequency, max_per_tag=max_per_tag)
    frequency = Counter(tag for some in tags for tag in some or ())
    common = {tag for tag, count in frequency.items() if count >= min_frequency}
    covered = Counter(
        tag for keep, some in zip(kept, tags, strict=True) if keep for tag in some or () if tag in common
    )
    for keep, some in zip(kept, tags, strict=True):
        theirs = common & set(some or ())
        if keep:
            assert theirs
        else:
            assert all(covered[tag] >= max_per_tag for tag in theirs)
    assert all(covered[tag] >= min(max_per_tag, frequency[tag]) for tag in common)
    assert kept.sum() <= max_per_tag * len(common)


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        (" It is clear and needs thought.\nVerdict: useful", True),
        (" Nobody can tell what is meant.\nVerdict: not useful\n", False),
        ("**Verdict:** Useful.", True),
        ("verdict is: NOT very useful", False),
        ("Verdict: useless", False),
        ("Useful.", True),
        ("It asks for nothing.\n**Not useful**", False),
        ("Not useful now.\nVerdict: useful", True),
        ("Either Verdict: useful or Verdict: not useful", None),
        ("Verdict: not helpful", None),
        ("Verdict: not", None),
        ("A non-useful message is one that ends", None),
        ("A useful message says clearly what is wanted.", None),
        ("", None),
    ],
)
def test_a_binary_vote_is_read_or_is_none(text: str, vote: bool | None) -> None:
    (score,) = BINARY.scores([reply(text)], votes=1)
    assert {True: score == 1.0, False: score == 0.0, None: math.isnan(score)}[vote]


@pytest.mark.parametrize(
    ("text", "vote"),
    [
        (" It is clear and common.\nScore: 3", 3.0),
        ("**Score:** 4/5", 4.0),
        ("Rating: 4.5 out of 5.", 4.5),
        ("Score (0-5): 0", 0.0),
        ("The score is 2.", 2.0),
        ("[Score: 4]", 4.0),
        ("4", 4.0),
        ("It is clear.\n3/5\n", 3.0),
        ("Score: 4. I repeat, score: 4", 4.0),
        ("Score: 4 … Score: 2", None),
        ("Score: 10", None),
        ("Score: 4/10", None),
        ("Score: -1", None),
        ("Score: 0-5", None),
        ("Score: 3 to 4", None),
        ("Score: 4,5", None),
        ("Score: none", None),
        ("a competitive score of 5", None),
        ("It has 3 parts.", None),
        ("", None),
    ],
)
def test_a_pointwise_vote_is_read_or_is_none(text: str, vote: float | None) -> None:
    (score,) = POINTWISE.scores([reply(text)], votes=1)
    assert math.isnan(score) if vote is None else score == vote


@given(st.text() | st.text(alphabet="Score: 0123456789./-,of \n"))
def test_a_pointwise_vote_is_on_the_scale(text: str) -> None:
    (vote,) = POINTWISE.scores([reply(text)], votes=1)
    assert math.isnan(vote) or 0 <= vote <= 5


def test_votes_that_cannot_be_read_count_neither_way() -> None:
    useful, useless, unreadable = reply("Verdict: useful"), reply("Verdict: not useful"), reply("Who knows?")
    replies = [useful, useful, useless, unreadable, Failure("too long"), unreadable, *[Failure("refused")] * 3]
    shares = BINARY.scores(replies, votes=3)
    assert shares[0] == pytest.approx(2 / 3)
    assert np.isnan(shares[1:]).all()
    mixed = [reply("Score: 5"), Failure("x"), reply("Score: 2"), reply("Score: 9"), reply("Score: 0")]
    assert POINTWISE.scores(mixed).tolist() == [pytest.approx(7 / 3)]
    assert BINARY.scores([]).shape == (0,)


def test_replies_must_fit_the_votes() -> None:
    with pytest.raises(ValueError, match="4 replies are no multiple of 5 votes"):
        BINARY.scores([reply("Verdict: useful")] * 4)


@given(st.lists(st.sampled_from([None, 0.0, 1.0, 2.5, 5.0]), min_size=2, max_size=2))
def test_a_score_is_the_mean_of_the_votes_that_were_read(votes: list[float | None]) -> None:
    (score,) = POINTWISE.scores([Failure("x") if vote is None else reply(f"Score: {vote}") for vote in votes], votes=2)
    there = [vote for vote in votes if vote is not None]
    assert score == sum(there) / len(there) if there else math.isnan(score)
