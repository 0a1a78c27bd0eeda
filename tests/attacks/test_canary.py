"""A key that servers repeat in every form goes through whole commands, and is found nowhere behind them."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
import tomli_w
from aiohttp import web

from fittest.evo.errors import FittestError
from fittest.evo.hiding import HIDDEN
from fittest.runs.models.fetch import _pip_download
from tests.attacks.confined import Ended, fittest
from tests.conftest import null_tables
from tests.http_engine import Asked, HttpEngine, error, reply, well

ATTACK = pytest.mark.attack

KEY = "sk-canary-Zq8vT2mXw9LkR4nB7cYd/3HsJ6gF1"
TOKEN = "hf_CanaryQzWxEcRvTbYnUmIkOlPa5678"

FORMS = {
    "whole": KEY,
    "upper case": KEY.upper(),
    "lines": "\n".join(KEY[at : at + 5] for at in range(0, len(KEY), 5)),
    "letters": " ".join(KEY),
    "a list": json.dumps([KEY[:13], KEY[13:]]),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of a header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 of a user": base64.b64encode(f"me:{KEY}".encode()).decode(),
    "a URL": quote(KEY, safe=""),
    "hexadecimal": KEY.encode().hex(),
}


def traces(text: str) -> list[str]:
    """Which forms of the key, or pieces of one, a text holds; looked for in another way than the code does."""
    plain = "".join(text.lower().split())
    found = [name for name, form in FORMS.items() if "".join(form.lower().split()) in plain]
    letters = "".join(sign for sign in plain if sign.isalnum())
    for key in (KEY, TOKEN):
        bare = "".join(sign for sign in key.lower() if sign.isalnum())
        found += [bare[at : at + 12] for at in range(len(bare) - 11) if bare[at : at + 12] in letters]
    return found


def all_text(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, tables by their cells and all by their bytes."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        yield path, path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            yield path, str(pl.read_parquet(path).rows())
        if path.suffix == ".sqlite":
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
                for (table,) in journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                    yield path, str(journal.execute(f"SELECT * FROM {table}").fetchall())


def unseen(*done: Ended) -> None:
    for one in done:
        assert not one.traceback
        assert traces(one.stdout + one.stderr) == []


def written(folder: Path, server: HttpEngine, **engine: object) -> Path:
    section = {"kind": "openai", "model": "m", "base_url": f"{server.url}/v1", "api_key_env": "CANARY_KEY", **engine}
    config = folder / "config.toml"
    config.write_text(tomli_w.dumps(null_tables(run={"generations": 1}, engine=section)), encoding="utf-8")
    return config


async def telltale(asked: Asked) -> web.StreamResponse:
    """Repeats the key in one of its forms: in an answer, in a thought, in the reason for an end, in a refusal."""
    form = list(FORMS.values())[asked.number % len(FORMS)]
    place = asked.number // len(FORMS) % 4
    if asked.number < 8:  # the trials before the run
        return await well(asked)
    if place == 0:
        return error(400, f"no {form}")
    if place == 1:
        return reply(asked, None, finish_reason=f"bad {form}")
    if place == 2:
        return reply(asked, f"You sent <{form}>, number {asked.number}, and it was read well.")
    text = {"role": "assistant", "content": f"Answer {asked.number} to you.", "reasoning_content": f"I see {form}."}
    return reply(asked, None, message=text) if "messages" in asked.body else await well(asked)


def test_a_key_that_servers_repeat_is_in_no_file_and_on_no_screen(server: HttpEngine, tmp_path: Path) -> None:
    server.answer = telltale
    run, env = tmp_path / "run", {"CANARY_KEY": KEY}
    config = written(tmp_path, server)
    titles: set[str] = set()
    done = threading.Event()
    watcher = threading.Thread(target=_watch_titles, args=(titles, done))
    watcher.start()
    try:
        ended = fittest("run", config, "--out", run, env=env, seconds=300)
    finally:
        done.set()
        watcher.join()
    assert ended.status == 0, ended.stderr[-2000:]
    unseen(ended, fittest("status", run), fittest("export", run, "--to", "trl-sft", "--out", tmp_path / "x.jsonl"))
    files = list(all_text(tmp_path))
    assert len(files) > 12
    assert {str(path): found for path, text in files if (found := traces(text))} == {}
    assert any(HIDDEN in text for path, text in files if path.suffix == ".parquet")
    assert any("run.toml" in str(path) and "CANARY_KEY" in text for path, text in files)
    assert any("fittest" in title for title in titles)
    assert [title for title in titles if traces(title)] == []


def _watch_titles(found: set[str], done: threading.Event) -> None:
    """Collects the names and arguments of all processes, as `ps` shows them."""
    while not done.is_set():
        for name in ("cmdline", "comm"):
            for file in Path("/proc").glob(f"[0-9]*/{name}"):
                try:
                    found.add(file.read_bytes().decode("latin-1"))
                except OSError:
                    continue  # it has ended
        time.sleep(0.05)


@pytest.mark.parametrize("status", [401, *(pytest.param(status, marks=ATTACK) for status in (402, 404, 307))])
def test_an_error_that_ends_a_run_holds_no_key(server: HttpEngine, tmp_path: Path, status: int) -> None:
    async def refuses(asked: Asked) -> web.StreamResponse:
        forms = " and ".join(form.replace("\n", " ") for form in FORMS.values())
        location = base64.b64encode(KEY.encode()).decode()
        response = error(status, f"no {forms}", Location=f"/?{location}")
        response.set_status(status, f"No {KEY.upper()}")
        return response

    server.answer = refuses
    ended = fittest("run", written(tmp_path, server), "--out", tmp_path / "run", env={"CANARY_KEY": KEY})
    assert ended.status == 2
    assert HIDDEN in ended.stderr
    unseen(ended)
    assert [path for path, text in all_text(tmp_path) if traces(text)] == []


@ATTACK
def test_a_traceback_of_a_script_holds_no_key(server: HttpEngine, tmp_path: Path) -> None:
    async def refuses(asked: Asked) -> web.StreamResponse:
        return error(401, f"no {KEY}")

    server.answer = refuses
    config = written(tmp_path, server)
    code = f"import fittest; fittest.run(fittest.load_config(__import__('pathlib').Path({str(config)!r})), 'run')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "CANARY_KEY": KEY},
    )  # fmt: skip
    assert "FittestError" in done.stderr
    assert traces(done.stderr) == []


@ATTACK
def test_a_reward_service_that_repeats_the_key_is_named_without_it(server: HttpEngine, tmp_path: Path) -> None:
    async def wrong(asked: Asked) -> web.StreamResponse:
        return web.json_response({"rewards": [f"no {KEY}"] * len(asked.body["pairs"])})

    server.answer = wrong
    reward = {"kind": "http", "url": f"{server.url}/score", "api_key_env": "CANARY_KEY"}
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(null_tables(reward=reward)), encoding="utf-8")
    ended = fittest("run", config, "--out", tmp_path / "run", env={"CANARY_KEY": KEY})
    assert ended.status == 2
    assert "the service gave the reward" in ended.stderr
    unseen(ended)


def test_what_is_printed_or_raised_holds_no_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in str(FittestError(f"hf:x/y: cannot be loaded (Invalid user token {TOKEN})"))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert str(FittestError(f"401 for {TOKEN}")) == f"401 for {HIDDEN}"
    code = (
        "import sys\nfrom fittest.runs.cli import main\n"
        f"@main.command('break')\ndef broken():\n    raise RuntimeError('{TOKEN}')\n"
        "main.get_command = lambda ctx, name: broken\nmain(['break'])"
    )
    script = tmp_path / "script.py"
    script.write_text("import os\n" + code.replace(f"'{TOKEN}'", "os.environ['SAID']"))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SAID": f"no {TOKEN}"},
    )
    assert f"RuntimeError: no {HIDDEN}" in done.stderr


@ATTACK
def test_a_child_that_needs_no_key_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\nenv > {seen}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    env = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "CANARY_KEY": KEY, "HF_TOKEN": TOKEN, "OTHER": "kept"}
    unseen(fittest("doctor", env=env, seconds=200))
    assert traces(seen.read_text()) == []
    assert "OTHER=kept" in seen.read_text()

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    given: list[dict[str, str]] = []
    ran = subprocess.run

    def noted(*arguments: object, **more: object) -> object:
        given.append(dict(more["env"]))  # type: ignore[call-overload]
        return ran(*arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", noted)
    with pytest.raises(FittestError, match="cannot fetch"):
        _pip_download("/nowhere/fittest-is-not-here.whl", tmp_path)
    assert len(given) == 1
    assert traces(str(given)) == []
    assert given[0]["OTHER"] == "kept"
