"""Pairs that share a forward pass are scored as they are alone, and which of them do follows from the call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fittest.evo.records import Missing
from fittest.fitness.rewards.batches import length_batches
from fittest.fitness.rewards.classifier import ClassifierReward
from tests.tiny_classifier import PAIRS, close, save_model, save_tokenizer, scores, token_ids

transformers = pytest.importorskip("transformers")


@settings(max_examples=25)
@given(pairs=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_a_reward_is_that_of_its_pair_whatever_the_company(
    skywork: tuple[ClassifierReward, Any], pairs: list[tuple[str, str]]
) -> None:
    reward, _ = skywork
    together = scores(reward, pairs)
    alone = [scores(reward, [pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert one == (other if isinstance(other, Missing) else close(other))
    assert scores(reward, pairs) == together


def test_the_pairs_of_a_call_share_forward_passes_of_like_lengths(
    skywork: tuple[ClassifierReward, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reward, network = skywork
    lengths = [40, 3, 70, 5, 41, 300, 4]
    pairs = [("p", "x" * length) for length in lengths]
    least = token_ids("p", "").shape[1]
    assert scores(reward, pairs[:1])
    shapes: list[tuple[int, int]] = []
    passes = reward._loaded.network.forward

    def watched(**inputs: torch.Tensor) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return passes(**inputs)

    monkeypatch.setattr(reward._loaded.network, "forward", watched)
    monkeypatch.setattr(reward, "batch_tokens", 2 * (least + 41))
    found = scores(reward, pairs)
    assert shapes == [(3, least + 5), (2, least + 41), (1, least + 70)]
    assert isinstance(found[5], Missing)
    with torch.inference_mode():
        expected = [network(token_ids(*pair)).logits[0, 0].item() for pair in pairs[:5]]
    assert found[:5] == close(expected)


def test_a_cpu_scores_pair_by_pair_unless_it_is_asked_otherwise(skywork: tuple[ClassifierReward, Any]) -> None:
    reward = ClassifierReward(model=skywork[0].model, device="cpu")
    assert scores(reward, PAIRS) == [scores(reward, [pair])[0] for pair in PAIRS]
    assert reward._most_tokens() == 1


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 50)), most=st.integers(1, 120))
def test_batches_hold_everything_once_within_the_bound_and_depend_on_lengths_alone(
    lengths: list[int], most: int
) -> None:
    batches = length_batches(lengths, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= most
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths)


@pytest.mark.parametrize("end", ["", "{{ eos_token }}"])
@pytest.mark.parametrize("padding", [None, 1])
def test_padding_that_looks_like_the_end_of_a_pair_changes_no_score(
    tmp_path: Path, padding: int | None, end: str
) -> None:
    network = save_model(tmp_path, padding=padding)
    save_tokenizer(tmp_path, template="{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}" + end)
    reward = ClassifierReward(model=str(tmp_path), device="cpu", batch_tokens=2048)
    pairs = [("ab", "c" * length) for length in (0, 1, 7)] + [("ab", "\x00\x01\x02")]
    alone = [scores(reward, [pair])[0] for pair in pairs]
    rows = [reward._tokens(*pair) for pair in pairs]
    with torch.inference_mode():
        assert alone == close([network(torch.tensor([row])).logits[0, 0].item() for row in rows])
    assert scores(reward, pairs) == close(alone)  # type: ignore[arg-type]
    assert reward._loaded.takes_batches


def test_a_model_that_reads_padding_is_asked_pair_by_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path)
    reward = ClassifierReward(model=str(tmp_path), device="cpu", batch_tokens=2048)
    network, passes = reward._loaded.network, reward._loaded.network.forward

    def last_position(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        network.config.pad_token_id = None
        rows = zip(input_ids, attention_mask, strict=True)
        outputs = [passes(input_ids=row[None], attention_mask=mask[None]) for row, mask in rows]
        return type(outputs[0])(logits=torch.cat([output.logits for output in outputs]))

    monkeypatch.setattr(network, "forward", last_position)
    assert not reward._loaded.takes_batches
    together = scores(reward, PAIRS)
    assert together == [scores(reward, [pair])[0] for pair in PAIRS]
