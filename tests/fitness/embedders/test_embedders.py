"""Embedders give unit vectors that depend on one text alone."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.evo.errors import FittestError
from fittest.evo.protocols import Embedder
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.fitness.embedders.minilm import MiniLM

HASH = HashEmbedder()
TEXTS = [
    "Write a poem about the sea.",
    "",
    "Compose verses on the ocean.",
    "word " * 600,
    "Wie spät ist es?",
    "x" * 5000,
    "How do I change a bicycle tyre?",
]


@pytest.fixture(scope="module")
def minilm(minilm_folder: Path) -> MiniLM:
    return MiniLM(folder=minilm_folder)


def assert_rows_stand_alone(embedder: Embedder, texts: list[str]) -> None:
    together = embedder.embed(texts)
    assert together.dtype == np.float32
    assert together.shape == (len(texts), embedder.dimension)
    assert np.array_equal(embedder.embed(texts[::-1])[::-1], together)
    for text, row in zip(texts, together, strict=True):
        assert np.array_equal(embedder.embed([text])[0], row)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)


@given(st.lists(st.text(), max_size=5))
def test_a_hash_row_is_a_unit_vector_and_depends_on_its_text_alone(texts: list[str]) -> None:
    assert_rows_stand_alone(HASH, texts)


def test_hash_vectors_are_alike_when_texts_share_words() -> None:
    sea, shore, tyre = HASH.embed(["a poem about the sea", "a poem about the shore", "change my bicycle tyre"])
    assert sea @ shore > 0.4 > sea @ tyre


def test_a_hash_fingerprint_names_what_determines_the_vectors() -> None:
    embedders = (HashEmbedder(), HashEmbedder(dimension=64), HashEmbedder(ngrams=1))
    assert len({embedder.fingerprint for embedder in embedders}) == 3


@pytest.mark.embedded
def test_a_minilm_row_is_a_unit_vector_and_depends_on_its_text_alone(minilm: MiniLM) -> None:
    assert minilm.dimension == 384
    assert_rows_stand_alone(minilm, TEXTS)
    assert minilm.embed([]).shape == (0, 384)


@pytest.mark.embedded
def test_minilm_knows_that_different_words_mean_the_same(minilm: MiniLM) -> None:
    poem, verses, tyre = minilm.embed([TEXTS[0], TEXTS[2], TEXTS[6]])
    assert poem @ verses > 0.6 > 0.2 > poem @ tyre


@pytest.mark.embedded
def test_minilm_is_known_by_its_weights(minilm: MiniLM) -> None:
    assert minilm.fingerprint == "minilm:53aa51172d142c89"


@pytest.mark.embedded
def test_minilm_loads_without_the_network_and_without_a_word(
    minilm_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    MiniLM(folder=minilm_folder).embed(["quiet"])
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    empty = MiniLM(folder=tmp_path)
    with pytest.raises(FittestError, match=rf"{tmp_path}: modules\.json not found"):
        empty.embed(["text"])
    with pytest.raises(FittestError, match=rf"{tmp_path}: no \*\.safetensors found"):
        _ = empty.fingerprint
