"""No secret gets into a configuration, wherever it is put by mistake, and no refusal repeats one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner

from fittest.evo.errors import FittestError
from fittest.runs import parse_config
from fittest.runs.cli import main
from fittest.runs.output.public import public_tables

KEY = "sk-Zq8vT2mXw9LkR4nB7cYd3HsJ6gF1"
BARE = "a1b2c3d4e5f60718293a4b5c6d7e8f90"

OPENAI = {"kind": "openai", "model": "m", "base_url": "http://host/v1"}
VLLM = {"kind": "vllm", "model": "m"}

MISPLACED: dict[str, dict[str, Any]] = {
    "api_key_env": {**OPENAI, "api_key_env": KEY},
    "api_key_env, without a hyphen": {**OPENAI, "api_key_env": BARE},
    "api_key_env of a hub": {**OPENAI, "api_key_env": "hf_ZqTmXwLkRnBcYdHsJgFaEeUuOo"},
    "an unknown key": {**OPENAI, "api_key": KEY},
    "a key of the wrong type": {**OPENAI, "timeout": KEY},
    "a list of the wrong type": {**OPENAI, "stop": [KEY]},
    "headers_env": {**OPENAI, "headers_env": {"X-Key": BARE}},
    "the name of a header": {**OPENAI, "headers_env": {f"X {KEY}": "MY_KEY"}},
    "base_url, a password": {**OPENAI, "base_url": f"http://me:{BARE}@host/v1"},
    "base_url, a list in a list": {**OPENAI, "base_url": [[f"http://me:{BARE}@host/v1"]]},
    "base_url, a path": {**OPENAI, "base_url": f"http://host/{KEY}/v1"},
    "base_url, a query": {**OPENAI, "base_url": f"http://host/v1?key={KEY}"},
    "extra_query": {**OPENAI, "extra_query": {"subscription": KEY}},
    "extra_body": {**OPENAI, "extra_body": {"options": {"user": KEY}}},
    "extra_body, by its name": {**OPENAI, "extra_body": {"options": [{"apiKey": BARE}]}},
    "engine_args, a list": {**VLLM, "engine_args": {"more": ["--port", "8000", f"--api-key={BARE}"]}},
    "engine_args, two items of a list": {**VLLM, "engine_args": {"more": ["--hf-token", BARE]}},
    "engine_args, a list of lists": {**VLLM, "engine_args": {"more": [["a", [KEY]]]}},
    "engine_args, an address": {**VLLM, "engine_args": {"proxy": f"http://me:{BARE}@host"}},
}


@pytest.mark.parametrize("engine", MISPLACED.values(), ids=MISPLACED.keys())
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(
    engine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BARE, "x")
    tables = {"pool": {"path": "builtin:starter"}, "engine": engine, "reward": {"kind": "null"}}
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps(tables), encoding="utf-8")
    for arguments in (["check", file], ["run", file, "--out", tmp_path / "out"], ["plan", file], ["doctor", file]):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == 2
        assert done.output.count("\n") == 1
        assert not any(secret in done.output for secret in (KEY, BARE, "hf_Zq"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["timeout", "model", "base_url", "api_key_env", "stop"])
def test_an_override_is_not_repeated_either(key: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(tomli_w.dumps({"pool": {"path": "builtin:starter"}, "engine": OPENAI, "reward": {"kind": "null"}}))
    value = f'["{KEY}", 5]'
    done = CliRunner().invoke(main, ["check", str(file), "--set", f"engine.{key}={value}"])
    assert (done.exit_code, KEY in done.output) == (2, False)


@pytest.mark.parametrize(
    "engine",
    [
        {**OPENAI, "api_key_env": "OPENAI_API_KEY", "headers_env": {"X-Org": "MY_ORG_2"}},
        {**OPENAI, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}, "cache_salt": "blue"}},
        {**VLLM, "engine_args": {"more": ["--pad-token", "x"], "kv_transfer_config": {"kv_role": "both"}}},
    ],
)
def test_what_holds_no_secret_is_taken(engine: dict[str, Any]) -> None:
    parse_config({"pool": {"path": "builtin:starter"}, "engine": engine, "reward": {"kind": "null"}})


def test_a_mistake_without_a_secret_is_still_shown() -> None:
    with pytest.raises(FittestError, match="slots = 'many'"):
        parse_config({"pool": {"path": "x"}, "engine": {"kind": "null", "slots": "many"}})


def test_a_key_in_a_plug_ins_table_is_not_published() -> None:
    tables = {"engine": {"kind": "theirs", "options": ["a", KEY], "note": KEY, "name": "m"}}
    assert KEY not in json.dumps(public_tables(tables))
    assert public_tables(tables)["engine"]["name"] == "m"


@pytest.mark.parametrize("host", ["sk-bratislava-gpu-01", "pk-inference-gateway.example.com"])
def test_a_host_may_be_named_as_keys_begin(host: str) -> None:
    engine = {**OPENAI, "base_url": f"http://{host}:8000/v1"}
    config = parse_config({"pool": {"path": "builtin:starter"}, "engine": engine, "reward": {"kind": "null"}})
    assert config.engine.servers == (f"http://{host}:8000/v1",)
