"""What is published of a configuration and of texts holds no path, address, header or key of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fittest.runs.output.public import public_tables, public_text

FOLDER = Path("/srv/my runs/first")


@pytest.mark.parametrize("inside", [("engine",), ("proposer",), ("reward", "engine"), ("reward",), ("a", "b", "c")])
def test_servers_and_what_is_sent_to_them_are_left_out_of_every_section(inside: tuple[str, ...]) -> None:
    section: dict[str, Any] = {
        "kind": "openai",
        "model": "owner/model",
        "base_url": ["http://10.0.0.7:8000/v1"],
        "headers": {"X-Team": "blue"},
        "headers_env": {"X-Org": "MY_ORG"},
        "api_key_env": "MY_KEY",
        "extra_body": {"user": "me"},
        "extra_query": {"api-version": "2"},
        "sampling": {"n": 8, "temperature": 0.5},
    }
    public: Any = public_tables(nested(section, inside))
    for name in inside:
        public = public[name]
    assert public == {"kind": "openai", "model": "owner/model", "sampling": {"n": 8, "temperature": 0.5}}


def nested(section: dict[str, Any], inside: tuple[str, ...]) -> dict[str, Any]:
    for name in reversed(inside):
        section = {name: section}
    return section


@pytest.mark.parametrize(
    ("key", "given", "left"),
    [
        ("path", "/home/me/pool.parquet", "pool.parquet"),
        ("path", "data/pool.parquet", "pool.parquet"),
        ("path", "pool.parquet", "pool.parquet"),
        ("path", "hf:owner/name:train", "hf:owner/name:train"),
        ("path", "builtin:starter", "builtin:starter"),
        ("model", "/models/llama 3/weights.gguf", "weights.gguf"),
        ("model", "~/models/llama", "llama"),
        ("model", "../llama", "llama"),
        ("model", "a/b/c", "c"),
        ("model", "owner/name", "owner/name"),
        ("contamination", ["bench/a.jsonl", "hf:owner/b"], ["a.jsonl", "hf:owner/b"]),
        ("system", "/no_think See http://example.org/a/b.", "/no_think See http://example.org/a/b."),
        ("keywords", ["image", "and/or"], ["image", "and/or"]),
    ],
)
def test_of_a_path_the_name_of_the_file_is_left(key: str, given: object, left: object) -> None:
    assert public_tables({"section": {key: given}}) == {"section": {key: left}}


def test_a_folder_that_is_there_is_no_name_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    assert public_tables({"model": "models/llama"}) == {"model": "llama"}


def test_what_is_named_like_a_secret_and_addresses_are_left_out_of_a_plug_in() -> None:
    section = {"token": "x", "hf_token": "x", "api_key": "x", "password": "x", "url": "https://in.house/x", "depth": 3}
    assert public_tables({"mine": section}) == {"mine": {"depth": 3}}
    assert public_tables({"mine": {"max_token": 5, "key": 7, "urls": ["ftp://a/b", "c"]}}) == {
        "mine": {"max_token": 5, "key": 7, "urls": ["c"]}
    }


TABLES = {
    "pool": {"path": "/srv/our data/pool.jsonl"},
    "engine": {"base_url": ["http://10.0.0.7:8000/v1/"], "model": "/models/my llama"},
    "reward": {"base_url": "https://me:word@judge.lan:9000/v1"},
}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("openai:/models/llama", "openai:llama"),
        ("openai:/models/my llama", "openai:my llama"),
        ("classifier:/models/rm@served", "classifier:rm@served"),
        ("pairwise:1:openai:/a/b/c:reference=64:openai:/a/b/d", "pairwise:1:openai:c:reference=64:openai:d"),
        ("head:0123456789abcdef:minilm:0123", "head:0123456789abcdef:minilm:0123"),
        ("/srv/our data/pool.jsonl: 3 rows are empty", "pool.jsonl: 3 rows are empty"),
        ("/srv/my runs/first/survivors.parquet", "survivors.parquet"),
        ("written to /srv/my runs/first", "written to (left out)"),
        ("server http://10.0.0.7:8000/v1 was gone", "server (left out) was gone"),
        ("10.0.0.7:8000 refused", "(left out) refused"),
        ("no address of 10.0.0.7: gone", "no address of (left out): gone"),
        ("judge.lan:9000 refused, judge.lan is down", "(left out) refused, (left out) is down"),
        ("the judge.lands model of my-judge.lan", "the judge.lands model of my-judge.lan"),
        ("owner/name and/or 3/4", "owner/name and/or 3/4"),
        ("https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by/4.0/"),
        ("see ../data/secret/x.txt, ~me/a/b", "see x.txt, b"),
    ],
)
def test_texts_lose_folders_and_servers_and_nothing_else(text: str, public: str) -> None:
    assert public_text(text, TABLES, FOLDER) == public


NAMES = st.text("abcdefgh0123-_", min_size=6, max_size=9)


@given(st.lists(NAMES, min_size=2, max_size=6), st.sampled_from(["openai:{}", "{}: no prompts", "({})", "a {} b"]))
def test_no_folder_of_any_path_is_left_in_a_text(names: list[str], around: str) -> None:
    file = names[-1]
    path = "/" + "/".join(names)
    expected = around.format(file)
    assert public_text(around.format(path), {}, FOLDER) == expected
    assert public_text(around.format(path), {"engine": {"model": path}}, FOLDER) == expected
    assert public_tables({"engine": {"model": path}}) == {"engine": {"model": file}}
