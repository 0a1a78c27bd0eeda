"""Verdict probabilities against a forward pass written here."""

from __future__ import annotations

import math

import pytest
import torch

from fittest.evo.backends.transformers import Transformers
from fittest.fitness.judge.judging import conversation
from fittest.fitness.judge.likelihood import TransformersVerdicts, likelihood_verdicts, verdict_log_odds, verdicts_of
from fittest.fitness.judge.pair import Pair
from tests.tiny_model import make_tiny_model

PAIR = Pair("Name a sea.", "The Baltic.", "Lake Geneva.", "A")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Transformers:
    return Transformers(model=make_tiny_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.mark.parametrize("begun", ["", "The Baltic is a sea. \n"])
def test_log_odds_are_those_of_the_letters_after_the_brackets(engine: Transformers, begun: str) -> None:
    tokenizer = engine.tokenizer
    shown = conversation(PAIR, "AB")[0].content
    closing = f"{begun.rstrip()}\n\n[[" if begun else "[["
    tokens = tokenizer(f"<user>{shown}</s><assistant>{closing}", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = engine.network(torch.tensor([tokens])).logits[0, -1].double()
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])
    found = TransformersVerdicts(engine).log_odds(PAIR, "AB", begun)
    assert found == pytest.approx(float(logits[a] - logits[b]), abs=1e-4)
    assert abs(found) > 1e-3


def test_judgments_of_one_question_are_measured_alike_in_any_order(engine: Transformers) -> None:
    """What was read for one of them serves the next, and leaves nothing of it behind."""
    texts = ["It is the sea.", "", "A lake is no sea, and B is a lake.", "It is"]
    alone = [TransformersVerdicts(engine).log_odds(PAIR, "BA", text) for text in texts]
    model = TransformersVerdicts(engine)
    assert [model.log_odds(PAIR, "BA", text) for text in texts] == alone
    assert [model.log_odds(PAIR, order, texts[0]) for order in ("AB", "BA")][1] == alone[0]
    assert len(set(alone)) == len(texts)


def test_both_orders_are_judged_and_the_likelier_side_wins(engine: Transformers) -> None:
    model = TransformersVerdicts(engine)
    verdicts = likelihood_verdicts(model, PAIR)
    assert verdicts == verdicts_of([model.log_odds(PAIR, "AB"), model.log_odds(PAIR, "BA")])
    clear, unclear = verdicts_of([0.1, -0.1]), verdicts_of([0.0, math.nan])
    assert (clear.ab, clear.ba, unclear.ab, unclear.ba) == ("A", "B", None, None)


def test_a_pair_longer_than_the_model_reads_has_no_verdict(engine: Transformers) -> None:
    shown = conversation(PAIR, "AB")
    assert math.isnan(verdict_log_odds(engine.network, engine.tokenizer, shown, context=100))
