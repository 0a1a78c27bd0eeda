"""Digests of files and folders, which stand in journals and run folders, never change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fittest.evo.errors import FittestError
from fittest.evo.pretrained import fingerprints
from fittest.evo.pretrained.fingerprints import file_digest, file_fingerprint, folder_fingerprint
from fittest.evo.pretrained.loading import adapter_id, pretrained_id
from fittest.fitness.embedders.hashing import HashEmbedder
from fittest.fitness.embedders.minilm import MiniLM
from fittest.fitness.rewards.classifier import ClassifierReward
from fittest.fitness.rewards.head import PreferenceHead
from fittest.runs.config import parse_config
from fittest.runs.models.cache import find_problem
from fittest.runs.models.registry import EmbeddedModel, ModelFile
from fittest.runs.parts.assembly import parts_of
from tests.conftest import null_tables

FILES = {
    "model.safetensors": b"weights" * 40,
    "other.safetensors": b"more weights",
    "config.json": b'{"r": 4}',
    "vocab.txt": b"a\nb\n",
    "notes.md": b"not read by a reward model",
    ".hidden": b"never read",
    "deeper/model.safetensors": b"read by a sentence transformer alone",
}
SHA256 = "cefc0f933831587599b8a130dc01a441c0047dc158f0aa444695ca1e59e42cf4"
"""That of `model.safetensors`."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "model"


def test_of_one_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    assert file_fingerprint(file) == "3513d5316e38b6e9"
    assert pretrained_id(file) == SHA256[:16]
    assert PreferenceHead(embedder=HashEmbedder(), path=file).fingerprint.split(":")[1] == SHA256[:16]


def test_of_a_folder(folder: Path) -> None:
    assert folder_fingerprint(folder) == "76154422d79ba363"
    assert pretrained_id(folder) == "755e95eab5bb1916"
    assert MiniLM(folder=folder).fingerprint == "minilm:0b32c697089b790d"
    assert ClassifierReward(model=str(folder), device="cpu").fingerprint == "classifier:146139c8c5ce2611"


def test_of_an_adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"low rank")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "target_modules": ["b", "a"]}))
    assert adapter_id(folder) == "6e2b130f81409f5c"


def test_of_files_that_a_configuration_names(tmp_path: Path) -> None:
    # the reward that null_tables configures
    cuts = {"min_reward": 0.25, "min_length": None, "max_gap": None}
    record = {"length_unit": "chars", "n": 4, "pairing": "best-worst", "policy": "quantile", "quantile": 0.5}
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps({"schema": 1, "reward_id": "null:1", "prompts_fitted": 8, **record, **cuts}))
    selection = {"policy": "absolute", "thresholds": str(file)}
    found = parts_of(parse_config(null_tables(selection={**selection, "quantile": 0.5}))).fingerprints
    assert found["selection.thresholds"] == "9e97c88dcb7ddd8c"


def test_of_a_fetched_model(folder: Path) -> None:
    def problem(sha256: str) -> str | None:
        file = ModelFile("model.safetensors", 280, sha256)
        return find_problem(
            EmbeddedModel("name", "purpose", "licence", "requirement", "folder", (file,)),
            folder,
            digest_of=file_digest,
        )

    assert problem(SHA256) is None
    assert "SHA-256" in str(problem(SHA256[::-1]))


def test_of_a_large_file_the_two_ends_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_ENDS_BYTES", 4)
    file = tmp_path / "large"
    found = []
    for content in (b"abcd....efgh", b"abcd,,,,efgh", b"abcd....efgi", b"abce....efgh", b"abcd.....efgh"):
        file.write_bytes(content)
        found.append(file_fingerprint(file))
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_what_does_not_count_changes_nothing(folder: Path) -> None:
    def all_of(folder: Path) -> list[str]:
        return [
            folder_fingerprint(folder),
            pretrained_id(folder),
            MiniLM(folder=folder).fingerprint,
            ClassifierReward(model=str(folder), device="cpu").fingerprint,
        ]

    before = all_of(folder)
    (folder / ".hidden").write_bytes(b"changed")
    assert all_of(folder) == before
    (folder / "notes.md").write_bytes(b"changed")
    assert [one == other for one, other in zip(all_of(folder), before, strict=True)] == [False, False, True, True]
    moved = folder.rename(folder.with_name("moved"))
    assert all_of(moved)[2:] == before[2:]


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    for fingerprint in (
        lambda: MiniLM(folder=tmp_path).fingerprint,
        lambda: ClassifierReward(model=str(tmp_path), device="cpu").fingerprint,
    ):
        with pytest.raises(FittestError, match=r"no \*\.safetensors found; expected"):
            fingerprint()
