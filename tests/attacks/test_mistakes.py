"""What users get wrong is told in one line, with status 2, whatever it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fittest.runs.cli import main
from tests.attacks.confined import fittest

PLAIN = """
[run]
generations = 0
[pool]
path = "pool.jsonl"
[engine]
kind = "null"
[engine.sampling]
n = 2
[reward]
kind = "null"
[diversity]
embedder = "hash"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Writes a configuration that needs nothing, and its pool."""
    (tmp_path / "pool.jsonl").write_text("".join(f'{{"prompt": "What is the colour of {n}?"}}\n' for n in range(6)))
    path = tmp_path / "c.toml"
    path.write_text(PLAIN)
    return path


def _said(*arguments: object) -> str:
    done: Result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 2, (done.exit_code, done.output, done.exception)
    return done.output


def _line(*arguments: object) -> str:
    (line,) = _said(*arguments).splitlines()
    assert line.startswith("fittest: ")
    assert line.isprintable()
    assert len(line) < 1_500
    return line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("engine.slots", "--set without =: write it as table.key=value"),
        ("slots=1", "--set slots: write it as table.key=value"),
        ("run.seed=" + "[" * 5_000, "--set run.seed: its brackets are nested too deep"),
        ("run.seed=" + "9" * 5_000, "--set run.seed: Exceeds the limit"),
        ("run.seed=0x" + "f" * 5_000, "run.seed is an integer of more than 64 bits"),
        ("run.seed=9223372036854775808", "run.seed is an integer of more than 64 bits"),
        ("a." * 5_000 + "b=1", "is nested more than 32 deep, the limit of levels"),
        ("engine.extra_body=" + "[" * 100 + "]" * 100, "is nested more than 32 deep, the limit of levels"),
        ("engine.slots=1000000", "engine.slots = 1000000: Input should be less than or equal to 16384"),
        ("engine.slots=-1", "engine.slots = -1: Input should be greater than or equal to 1"),
        ("engine.slots=1e400", "engine.slots = inf"),
        ("engine.sampling.n=1000000", "engine.sampling.n = 1000000: Input should be less than or equal to 10000"),
        ("engine.sampling.temperature=1e308", "engine.sampling.temperature = 1e+308"),
        ("engine.sampling.temperature=nan", "engine.sampling.temperature = nan"),
        ("engine.latency=1e308", "engine.latency = 1e+308"),
        ("run.generations=1000000000", "run.generations = 1000000000"),
        ("operators.shots=1000000", "operators.shots = 1000000: Input should be less than or equal to 1000"),
        ("operators.mix={self_rip=1e308,mutate=1e308}", "none above 1e+100"),
        ("operators.mix={self_rip=0}", "at least one of them positive"),
        ("pool.path=" + "x" * 5_000, "File name too long"),
        ("pool.path=" + "a/" * 5_000, "File name too long"),
        ('pool.path="a\\u0000b"', "embedded null"),
        ("pool.path=~nobody-of-this-name/pool.jsonl", "Could not determine home"),
        ("pool.path=", "is a folder; it should be a file"),
        ("pool.path=gone.jsonl", "gone.jsonl: no such file"),
        ("reward.kind=" + "x" * 5_000, "unknown reward 'xxx"),
        ("engine." + "x" * 5_000 + "=1", "unknown key engine.xxx"),
        ("diversity.embedder=/nowhere", "no model '/nowhere'"),
        ("\ud800.a=1", r"\ud800"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_told_in_a_line(override: str, words: str, config: Path) -> None:
    assert words in _line("check", config, "--set", override)


def test_weights_whose_sum_has_no_end_are_refused(config: Path) -> None:
    reward = ("reward.kind=recorded", "reward.path=r.jsonl", "reward.weights={a=1e308,b=1e308}")
    given = [part for override in reward for part in ("--set", override)]
    assert "weights may be as large as 1e+100" in _line("check", config, *given)
    assert "'a=1e308': a weight may be as large as 1e+100" in _said(
        "filter", config.parent / "pool.jsonl", "--out", "o", "--reward-weights", "a=1e308,b=1e308"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "pool is missing"),
        (b"\xff\xfe[\0r\0", "is UTF-16 text; it should be UTF-8"),
        (b"[run]\nseed = 7 # caf\xe9\n", "is not TOML: 'utf-8' codec can't decode byte 0xe9"),
        (b"a = " + b"[" * 5_000, "is not TOML: its brackets are nested too deep"),
        (b"a = " + b"{a=" * 5_000, "is not TOML: its brackets are nested too deep"),
        (b"a" + b".a" * 5_000 + b" = 1", "is nested more than 32 deep, the limit of levels"),
        (b"[a" + b".a" * 5_000 + b"]", "is nested more than 32 deep, the limit of levels"),
        (b"[run]\nseed = " + b"9" * 5_000, "is not TOML: Exceeds the limit"),
        (b"[run]\nseed = 1e999\n", "run.seed = inf"),
        (b"[run]\n" + b"".join(b"k%d = 1\n" % n for n in range(3_000)), "holds more than 2,000 keys"),
        (b"[run]\n" + b"".join(b"k%d = 1\n" % n for n in range(100)), "and 81 more"),
        (b'[run]\n"\\u001b[2J" = 1\n', r"unknown key run.\x1b[2J"),
        (b"[run]\nseed = 1\nseed = 2\n", "is not TOML: Cannot overwrite a value"),
        (b"[[pool]]\npath = 'a'\n[[pool]]\npath = 'b'\n", "pool = "),
        (b"run = 1\n", "run = 1"),
        (b"#" * (17 << 20), "is larger than 16 MiB"),
        (b"\0", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_told_in_a_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    assert words in _line("check", path)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_configuration_may_come_from_windows(mark: bytes, config: Path) -> None:
    config.write_bytes(mark + PLAIN.replace("\n", "\r\n").encode())
    assert CliRunner().invoke(main, ["check", str(config)]).exit_code == 0


def test_a_configuration_that_is_a_folder_is_told(tmp_path: Path) -> None:
    assert "is a folder; it should be a file" in _line("plan", tmp_path)
    assert "no such configuration; `fittest init > " in _line("check", tmp_path / "gone.toml")


@pytest.mark.parametrize("path", ["a\0b", "x" * 5_000, "a/" * 5_000, "loop"])
@pytest.mark.parametrize(
    "command",
    [
        ["check", "{}"], ["plan", "{}"], ["doctor", "{}"], ["run", "{}", "--out", "o"],
        ["run", "c.toml", "--out", "{}"],
        ["status", "{}"], ["filter", "{}", "--out", "o"], ["filter", "r.jsonl", "--out", "{}"],
        ["filter", "r.jsonl", "--out", "o", "--thresholds", "{}"], ["ablate", "{}", "--out", "o"],
        ["export", "{}", "--to", "prompts", "--out", "o"], ["export", "r", "--to", "prompts", "--out", "{}"],
        ["judge", "eval", "{}"], ["judge", "select", "{}", "--out", "o"], ["demo", "--out", "{}"],
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_is_told_in_a_line(
    command: list[str], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert "is no path" in (said := _line(*(part.format(path) for part in command))) or "cannot be read" in said


@pytest.mark.parametrize(
    ("overrides", "module", "words"),
    [
        (
            ["engine.kind=llamacpp"],
            "xllamacpp",
            'engine.kind = "llamacpp" needs xllamacpp: pip install "fittest[embedded]"',
        ),
        (["engine.kind=vllm"], "vllm", 'engine.kind = "vllm" needs vllm: pip install "fittest[vllm]"'),
        (
            ["engine.kind=transformers", "engine.model=a/b"],
            "transformers",
            'engine.kind = "transformers" needs transformers: pip install "fittest[embedded]"',
        ),
        (
            ["engine.kind=openai", "engine.model=m", "engine.base_url=http://127.0.0.1:9"],
            "aiohttp",
            'engine.kind = "openai" needs aiohttp: pip install "fittest[openai]"',
        ),
        (
            ["proposer.kind=openai", "proposer.model=m", "proposer.base_url=http://127.0.0.1:9"],
            "aiohttp",
            'proposer.kind = "openai" needs aiohttp',
        ),
        (["reward.kind=head"], "sentence_transformers", 'reward.kind = "head" needs sentence_transformers'),
        (
            ["reward.kind=classifier", "reward.model=a/b"],
            "transformers",
            'reward.kind = "classifier" needs transformers',
        ),
        (["reward.kind=http", "reward.url=http://127.0.0.1:9"], "aiohttp", 'reward.kind = "http" needs aiohttp'),
        (
            ["diversity.embedder=minilm"],
            "sentence_transformers",
            'diversity.embedder = "sentence-transformers" needs sentence_transformers',
        ),
    ],
)
def test_check_says_which_package_is_not_installed(
    overrides: list[str], module: str, words: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    given = [part for override in overrides for part in ("--set", override)]
    assert words in _line("check", config, *given)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:abc/v1", "has no port from 1 to 65535 after the colon"),
        ("http://127.0.0.1:99999/v1", "has no port from 1 to 65535 after the colon"),
        ("http://127.0.0.1:-1/v1", "has no port from 1 to 65535 after the colon"),
        ("http://127.0.0.1:0/v1", "has no port from 1 to 65535 after the colon"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
        ("http://:8000/v1", "is no address of a server"),
        ("localhost:8000", "is no address of a server"),
        ("http://a b/v1", "is no address of a server"),
    ],
)
@pytest.mark.parametrize(
    "kinds",
    [
        ["engine.kind=openai", "engine.model=m", "engine.base_url={}"],
        ["reward.kind=classifier", "reward.model=m", "reward.base_url={}"],
        ["reward.kind=http", "reward.url={}"],
    ],
)
def test_an_address_that_cannot_be_is_told_before_anything_is_asked(
    kinds: list[str], url: str, words: str, config: Path
) -> None:
    given = [part for override in kinds for part in ("--set", override.format(url))]
    assert words in _line("check", config, *given)


@pytest.fixture
def no_hub() -> Iterator[tuple[str, list[int]]]:
    """The address of a server that breaks every connection, and how often somebody has tried."""
    tries, ended = [0], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def count() -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    listening.accept()[0].close()
                    tries[0] += 1

        counting = threading.Thread(target=count)
        counting.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", tries
        finally:
            ended.set()
            counting.join()


@pytest.mark.parametrize(
    "overrides",
    [
        ["pool.path=hf:nobody-of-this-name/nothing"],
        ["reward.kind=classifier", "reward.model=nobody-of-this-name/nothing"],
    ],
)
def test_a_name_that_is_on_no_hub_is_told_in_a_line_and_at_once(
    overrides: list[str], config: Path, no_hub: tuple[str, list[int]]
) -> None:
    address, tries = no_hub
    given = [part for override in overrides for part in ("--set", override)]
    env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "", "http_proxy": "", "https_proxy": ""}
    ended = fittest("check", config, *given, env=env, cwd=config.parent, seconds=300)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("warning: ")]
    assert ended.status == 2
    assert len(lines) == 1, ended.stderr
    assert "nobody-of-this-name/nothing" in lines[0]
    # the library tries five times, with pauses, unless it is told otherwise
    assert tries[0] < 5


@pytest.mark.parametrize(
    ("path", "env"),
    [
        ("c.toml", {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
        ("pool.jsonl", {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}),
        ("c.toml", {"TERM": "dumb", "COLUMNS": "1", "HOME": "", "XDG_CACHE_HOME": ""}),
    ],
)
def test_a_strange_terminal_does_no_harm(path: str, env: dict[str, str], config: Path) -> None:
    (config.parent / "pool.jsonl").write_text("".join(f'{{"prompt": "Wie heißt {n} – τ?"}}\n' for n in range(6)))
    ended = fittest("check", path, env=env, cwd=config.parent)
    assert (ended.status, ended.traceback) == (0 if path == "c.toml" else 2, False), ended.stderr


def test_a_name_that_is_no_utf_8_is_told(config: Path) -> None:
    name = b"caf\xe9.toml"
    code = "import sys; from fittest.runs.cli import main; main(prog_name='fittest')"
    command = [sys.executable, "-c", code, "check", name]
    done = subprocess.run(command, capture_output=True, cwd=config.parent, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    (config.parent / os.fsdecode(name)).write_text(PLAIN)
    done = subprocess.run(command, capture_output=True, cwd=config.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_a_verb_in_peace(tmp_path: Path) -> None:
    code = "import sys; from fittest.runs.cli import main; main(prog_name='fittest')"
    shell = f'"{sys.executable}" -c "{code}" init | head -n 1'
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell}"], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_working_folder_that_is_gone_is_told_in_a_line(config: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); del sys.argv[1];"
        " from fittest.runs.cli import main; main(prog_name='fittest')"
    )
    for arguments in (["check", str(config)], ["filter", str(config), "--out", "o"]):
        # -P: as with the installed command, the working folder is not searched for modules; where it is searched, some
        # CPythons cannot import asyncio in a folder that is gone (python/cpython#130932, mended in 3.13.3)
        command = [sys.executable, "-P", "-c", code, str(tmp_path / "gone"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, (arguments, done.stderr)
        assert done.returncode == (0 if arguments[0] == "check" else 2)
