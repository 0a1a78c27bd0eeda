"""Plug-ins of another distribution: really installed, found by their entry points, configured, run and listed."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

from fittest.evo.errors import FittestError
from fittest.runs import parse_config
from fittest.runs.config.embedder import EMBEDDERS
from fittest.runs.config.engine import ENGINES
from fittest.runs.config.gates import GATES
from fittest.runs.config.operators import OPERATORS
from fittest.runs.config.reward import REWARDS
from fittest.runs.config.selection import POLICIES
from fittest.runs.parts.assembly import parts_of
from fittest.runs.preflight.plug_ins import installed
from tests.conftest import null_tables

HERE = Path(__file__).resolve()
EXAMPLES = HERE.parents[2] / "plugin_distribution"
DOCS = HERE.parents[3] / "docs" / "plugins.md"

BROKEN = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "fittest-broken"
version = "0.3"

[tool.setuptools]
py-modules = ["fittest_broken", "fittest_numbers"]

[project.entry-points."fittest.backends"]
broken = "fittest_broken:ENGINE"
number = "fittest_numbers:THREE"
no-section = "fittest_numbers:NO_SECTION"
replay = "fittest_numbers:NO_SECTION"

[project.entry-points."fittest.gates"]
broken = "fittest_broken:GATE"
rouge_l = "fittest_numbers:THREE"

[project.entry-points."fittest.operators"]
broken = "fittest_broken:OPERATOR"
late = "fittest_numbers:LATE"
strange = "fittest_numbers:strange"
"""


def pip_install(source: Path, target: Path) -> None:
    """Install a distribution as its users would; setuptools is there wherever torch is, so no index is asked."""
    copy = target / "source" / source.name
    shutil.copytree(source, copy)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    options = ["--disable-pip-version-check", "--target", str(target / "site"), str(copy)]
    subprocess.run([*command, *options], check=True, capture_output=True)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the distribution with one plug-in of each group is installed."""
    target = tmp_path_factory.mktemp("examples")
    pip_install(EXAMPLES, target)
    return target / "site"


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which a distribution is installed whose plug-ins cannot be used."""
    target = tmp_path_factory.mktemp("broken")
    source = target / "fittest-broken"
    source.mkdir()
    (source / "pyproject.toml").write_text(BROKEN)
    (source / "fittest_broken.py").write_text("raise ImportError('libquantum.so.9: no such file\\nmore about it')\n")
    (source / "fittest_numbers.py").write_text(
        "from fittest.runs import Kind\n"
        "THREE = 3\n"
        "def late(*given):\n    import library_that_nobody_has\n"
        "def strange(parent):\n    return parent\n"
        "NO_SECTION, LATE = Kind(late), Kind(late)\n"
    )
    pip_install(source, target)
    return target / "site"


@pytest.fixture
def with_examples(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The examples, installed for this process."""
    monkeypatch.syspath_prepend(examples)
    importlib.invalidate_caches()
    yield examples
    sys.modules.pop("fittest_examples", None)


@pytest.fixture
def with_broken(broken: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The broken plug-ins, installed for this process."""
    monkeypatch.syspath_prepend(broken)
    importlib.invalidate_caches()
    yield broken
    for name in ("fittest_broken", "fittest_numbers"):
        sys.modules.pop(name, None)


def fittest(*arguments: object, sites: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with distributions that are installed elsewhere."""
    path = os.pathsep.join([*map(str, sites), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    command = [sys.executable, "-m", "fittest.runs.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})


def plugged(**sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration in which everything that can be is a plug-in."""
    tables = null_tables(
        operators={"mix": {"append": 0.5, "reverse": 0.4, "self_rip": 0.1}, "append": {"words": ["how", "why"]}},
        gates={"languages": [], "rouge_l": 1.0, "novelty": 0.0, "question": {"marks": "?!"}},
        diversity={"embedder": {"kind": "letters", "power": 0.5}},
    )
    tables["engine"] = {"kind": "parrot", "volume": 2, "slots": 8, "sampling": {"n": 4, "max_tokens": 60}}
    tables["reward"] = {"kind": "near-length", "wanted": 100}
    tables["selection"] = {"policy": "above-worst", "share": 0.3, "race_round": 1}
    return {**tables, **sections}


def written(path: Path, tables: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_run_of_plug_ins_alone_is_stopped_resumed_and_exported(examples: Path, tmp_path: Path) -> None:
    config, whole, parts = written(tmp_path / "run.toml", plugged()), tmp_path / "whole", tmp_path / "parts"
    done = fittest("run", config, "--out", whole, sites=(examples,))
    assert done.returncode == 0, done.stderr
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["gate_rejections"]["question"] > 0
    assert summary["rollouts"] < summary["rollouts_full"]
    assert json.loads((whole / "thresholds.json").read_text())["policy"] == "above-worst"
    births = pl.read_parquet(whole / "generations" / "0001.parquet")
    assert {"append", "reverse"} <= set(births["operator"])

    stopped = fittest("run", config, "--out", parts, "--set", "budget.max_tokens=3000", sites=(examples,))
    assert "budget.max_tokens is reached" in stopped.stderr
    resumed = fittest("run", parts, "--resume", "--set", "budget.max_tokens=0", sites=(examples,))
    assert resumed.returncode == 0, resumed.stderr
    for table in ("survivors.parquet", "logbook.parquet", "thresholds.json", "generations/0002.parquet"):
        assert (parts / table).read_bytes() == (whole / table).read_bytes(), table

    out = tmp_path / "lines.jsonl"
    exported = fittest("export", parts, "--to", "tsv", "--out", out, sites=(examples,))
    assert exported.returncode == 0, exported.stderr
    survivors = pl.read_parquet(parts / "survivors.parquet")
    lines = [json.loads(line)["line"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines == [f"{row['prompt_id']}\t{row['chosen']}" for row in survivors.iter_rows(named=True)]
    assert len(lines) > 0


def test_a_run_goes_on_only_with_the_keys_of_its_plug_ins_unchanged(examples: Path, tmp_path: Path) -> None:
    config, out = written(tmp_path / "run.toml", plugged(budget={"max_tokens": 3000})), tmp_path / "out"
    # its budget ends it before any prompt can survive
    assert fittest("run", config, "--out", out, sites=(examples,)).returncode == 3
    for key, value in (("engine.volume", 3), ("operators.append.words", ["so"]), ("gates.question.marks", '"."')):
        refused = fittest("run", out, "--resume", "--set", f"{key}={value}", sites=(examples,))
        assert refused.returncode == 2
        assert f"was begun otherwise: {key} was" in refused.stderr
    without = fittest("run", out, "--resume", sites=())
    assert without.returncode == 2
    assert "engine.kind = 'parrot': unknown engine 'parrot'; known are llamacpp, null, openai" in without.stderr


def test_the_run_records_which_version_of_a_plug_in_it_began_with(examples: Path, tmp_path: Path) -> None:
    import tomllib

    config, out = written(tmp_path / "run.toml", plugged(budget={"max_tokens": 3000})), tmp_path / "out"
    assert fittest("run", config, "--out", out, sites=(examples,)).returncode == 3
    run_toml = out / "run.toml"
    tables = tomllib.loads(run_toml.read_text(encoding="utf-8"))
    assert tables["fittest"]["versions"]["fittest-examples"] == "1.2"
    tables["fittest"]["versions"]["fittest-examples"] = "1.1"
    written(run_toml, tables)
    resumed = fittest("run", out, "--resume", "--set", "budget.max_tokens=0", sites=(examples,))
    assert "fittest-examples is 1.2, the run began with 1.1" in resumed.stdout


def test_the_doctor_lists_plug_ins_with_their_distribution_and_names_the_broken(
    examples: Path, broken: Path, tmp_path: Path
) -> None:
    done = fittest("doctor", sites=(examples, broken))
    assert done.returncode == 1
    lines = {line[8:40].strip(): line for line in done.stdout.splitlines()}
    for name, target in (
        ("engine parrot", "PARROT"),
        ("reward near-length", "NEAR_LENGTH"),
        ("embedder letters", "LETTERS"),
        ("operator append", "APPEND"),
        ("operator reverse", "reverse"),
        ("gate question", "QUESTION"),
        ("policy above-worst", "ABOVE_WORST"),
        ("exporter tsv", "tsv"),
    ):
        assert lines[name].startswith("ok")
        assert lines[name].endswith(f"plug-in of fittest-examples 1.2: fittest_examples:{target}")
    assert lines["engine broken"].startswith("BROKEN")
    assert "ImportError: libquantum.so.9: no such file (plug-in of fittest-broken 0.3)" in lines["engine broken"]
    assert "→ update or uninstall fittest-broken" in done.stdout
    assert lines["plug-ins"].endswith("17 installed")


def test_the_doctor_looks_at_the_plug_ins_of_a_configuration(examples: Path, tmp_path: Path) -> None:
    done = fittest("doctor", written(tmp_path / "run.toml", plugged()), sites=(examples,))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line[8:40].strip(): line for line in done.stdout.splitlines()}
    assert {"engine parrot", "reward near-length", "embedder letters", "operator append", "gate question"} <= set(
        lines
    )
    assert "policy above-worst" in lines
    assert "exporter tsv" not in lines
    assert lines["engine answers"].endswith("one token of parrot")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"engine": {"kind": "broken"}}, "engine.kind = 'broken': the engine 'broken' cannot be loaded: ImportError"),
        ({"operators": {"mix": {"broken": 1.0}}}, "operators.broken: the operator 'broken' cannot be loaded"),
        ({"gates": {"broken": {}}}, "gates.broken: the gate 'broken' cannot be loaded: ImportError: libquantum.so.9"),
    ],
)
def test_a_run_that_names_a_broken_plug_in_ends_with_one_line(
    sections: dict[str, Any], message: str, broken: Path, tmp_path: Path
) -> None:
    tables = {**null_tables(), **sections}
    done = fittest("run", written(tmp_path / "run.toml", tables), "--out", tmp_path / "out", sites=(broken,))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert "no such file (plug-in of fittest-broken 0.3)" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("with_broken")
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"engine": {"kind": "number"}}, r"TypeError: expected a Kind, found int \(plug-in of fittest-broken 0\.3\)"),
        ({"engine": {"kind": "no-section"}}, "expected a section that derives from EngineSection, found none"),
        ({"engine": {"kind": "replay"}}, "'replay' of fittest-broken 0.3 has a name that fittest uses itself"),
        ({"operators": {"mix": {"late": 1.0}}}, "the operator 'late' cannot be built: ModuleNotFoundError: No module"),
        ({"operators": {"mix": {"strange": 1.0}}}, "'strange': an operator takes its parents, then exemplars and rng"),
    ],
)
def test_a_plug_in_that_is_not_what_it_should_be_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError, match=message):
        parts_of(parse_config({**null_tables(), **sections}))


@pytest.mark.usefixtures("with_broken")
def test_a_broken_plug_in_harms_only_those_who_name_it() -> None:
    tables = null_tables()
    del tables["engine"]
    parse_config(tables)
    assert "fittest_broken" not in sys.modules


def test_a_name_that_two_distributions_bring_is_refused(with_examples: Path, tmp_path: Path) -> None:
    (folder,) = with_examples.glob("*.dist-info")
    other = tmp_path / "fittest_other-0.1.dist-info"
    shutil.copytree(folder, other)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: fittest-other\nVersion: 0.1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(FittestError, match=r"several distributions: fittest-examples 1\.2, fittest-other 0\.1"):
            parse_config(plugged())
        assert {plug_in.distribution for plug_in in installed()} == {"fittest-examples", "fittest-other"}
        assert all(plug_in.problem is not None for plug_in in installed())
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.usefixtures("with_examples")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": {"kind": "parrot"}}, 'engine kind "parrot" needs volume'),
        ({"engine": {"kind": "parrot", "volume": 0}}, "engine.volume = 0: Input should be greater than or equal to 1"),
        ({"engine": {"volume": 1, "volum": 2}}, "unknown key engine.volum"),
        ({"engine": {"kind": "parrot", "volume": 1, "volum": 2}}, "engine.volum; did you mean engine.volume?"),
        ({"engine": {"kind": "parrot", "volume": 1, "latency": 2}}, 'engine kind "parrot" does not take latency'),
        ({"engine": {"kind": "parot", "volume": 1}}, "unknown engine 'parot'; did you mean 'parrot'?"),
        ({"reward": {"kind": "near_length"}}, "unknown reward 'near_length'; did you mean 'near-length'?"),
        ({"diversity": {"embedder": {"kind": "letters", "power": 0}}}, "diversity.embedder.power = 0"),
        ({"diversity": {"embedder": {"kind": "leters"}}}, "unknown embedder 'leters'; did you mean 'letters'?"),
        ({"operators": {"mix": {"append": 1.0}}}, "operators.append.words is missing"),
        ({"operators": {"append": {"word": ["a"]}}}, "operators.append.word; did you mean operators.append.words?"),
        ({"operators": {"apend": {"words": ["a"]}}}, "unknown key operators.apend; did you mean operators.append?"),
        ({"selection": {"policy": "above-worst"}}, 'policy "above-worst" needs share'),
        ({"selection": {"policy": "above_worst"}}, "unknown policy 'above_worst'; did you mean 'above-worst'?"),
        ({"gates": {"question": {"marks": ""}}}, "gates.question.marks = ''"),
        ({"gates": {"question": 3}}, "gates.question = 3"),
        ({"gates": {"qestion": {}, "rouge_l": 7}}, "unknown key gates.qestion; did you mean gates.question?"),
        ({"gates": {"qestion": {}, "rouge_l": 7}}, "gates.rouge_l = 7: Input should be less than"),
    ],
)
def test_the_section_of_a_plug_in_is_checked_like_any_other(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FittestError) as caught:
        parse_config(plugged(**changes))
    assert message in str(caught.value)


@pytest.mark.usefixtures("with_examples")
def test_a_resolved_configuration_of_plug_ins_loads_equal() -> None:
    for tables in (plugged(), plugged(diversity={"embedder": "letters"}), plugged(gates={"question": {}})):
        config = parse_config(tables)
        assert parse_config(config.toml_tables()) == config
        assert parse_config(json.loads(config.model_dump_json())) == config
    assert parse_config(plugged(diversity={"embedder": "letters"})).toml_tables()["diversity"]["embedder"] == {
        "kind": "letters",
        "power": 1.0,
    }


@pytest.mark.usefixtures("with_examples")
def test_operators_that_a_caller_gives_come_before_those_of_a_plug_in() -> None:
    def own(exemplars: object, rng: object) -> str:
        return "mine"

    config = parse_config(null_tables(operators={"mix": {"reverse": 1.0}}))
    assert parts_of(config, operators={"reverse": own}).operators == {"reverse": own}
    assert parts_of(config).operators["reverse"] is not own


@pytest.mark.usefixtures("with_examples")
def test_a_gate_that_looks_at_its_prompt_alone_is_asked_before_those_that_wait_for_their_turn() -> None:
    names = [gate.name for gate in parts_of(parse_config(plugged())).gates]
    assert names[:6] == ["parse", "length", "language", "keywords", "question", "exact"]


def test_what_builds_each_built_in_kind_is_there() -> None:
    for kinds in (ENGINES, REWARDS, EMBEDDERS, OPERATORS, GATES, POLICIES):
        for kind in kinds.built_in.values():
            module, _, function = str(kind.build).partition(":")
            assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.M | re.S))
    assert set(blocks) == {"pyproject.toml", "fittest_brevity.py", "run.toml"}
    source = tmp_path / "fittest-brevity"
    source.mkdir()
    for name, text in blocks.items():
        (source / name).write_text(text, encoding="utf-8")
    pip_install(source, tmp_path)
    out = tmp_path / "run"
    done = fittest("run", source / "run.toml", "--out", out, sites=(tmp_path / "site",))
    assert done.returncode == 0, done.stderr
    assert set(pl.read_parquet(out / "generations" / "0001.parquet")["operator"]) == {"shorten"}
    assert json.loads((out / "thresholds.json").read_text())["reward_id"] == "brevity:1:40"
    assert "fittest-brevity 1.0" in fittest("doctor", source / "run.toml", sites=(tmp_path / "site",)).stdout
