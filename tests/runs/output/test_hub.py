"""A run is published on a hub and read back equal; nothing of this machine goes with it, and a refusal is one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import polars as pl
import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from fittest.evo.errors import FittestError
from fittest.runs.cli import main
from fittest.runs.output.atomic import write_parquet, write_text
from fittest.runs.output.export import export
from fittest.runs.output.hub import publish
from tests.hub_server import HubServer, Repository, front_matter
from tests.runs.output.test_export import TEXTS, frame, rows_of, survivor

# huggingface_hub 2.4 gives an open file to httpx2 as `data` (lfs.py, _upload_single_part); to be dropped when it says
# `content`
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

SECRETS = ("10.0.0.7", "bearer-of", "MY_ORG", "MY_KEY", "blue-team", "2030-01-01", "/srv", "our data", "hidden")
"""What stands in the configuration below and in no published file."""

RUN = """
[run]
seed = 11
[pool]
path = "/srv/our data/prompts.jsonl"
[engine]
kind = "openai"
model = "/srv/hidden/llama-8b"
system = "Answer in one line."
base_url = ["http://10.0.0.7:8000/v1"]
api_key_env = "MY_KEY"
headers = { Authorization = "bearer-of" }
headers_env = { X-Org = "MY_ORG" }
extra_query = { api-version = "2030-01-01" }
[engine.extra_body]
team = "blue-team"
[proposer]
kind = "openai"
model = "owner/small"
base_url = ["http://10.0.0.7:8001/v1"]
[reward]
kind = "judge"
votes = 10
[reward.engine]
kind = "openai"
model = "/srv/hidden/judge"
base_url = ["http://10.0.0.7:8002/v1"]
[fittest]
schema = 1
[fittest.fingerprints]
engine = "openai:/srv/hidden/llama-8b"
"""

SURVIVORS = frame(
    survivor("a", prompt="Schreibe über Zebras 🦓\r\nund Flüsse."),
    survivor("b", licence="Apache-2.0", source="mail"),
    survivor("c", licence="Our own terms", chosen="same", rejected="same"),
    survivor("d", generation=1, operator="cross", parents=["a", "b"], licence="Apache-2.0; MIT"),
)


def responses(*names: str) -> pl.DataFrame:
    rows = [
        {
            "prompt_id": name, "sample": sample, "response": f"{name} {sample}\n", "reasoning": None,
            "reward": None if sample == 2 else sample + 0.1, "reward_id": "judge:1:openai:/srv/hidden/judge:10",
            "length": 4, "finish_reason": "length" if sample else "stop", "truncated": bool(sample),
            "prompt_tokens": 3, "completion_tokens": 5, "engine": "openai:/srv/hidden/llama-8b",
        }
        for name in names
        for sample in range(3)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"reasoning": pl.String})


def begun(folder: Path) -> Path:
    """A run of one offspring generation, in which x was scored and failed."""
    write_parquet(folder / "survivors.parquet", SURVIVORS)
    candidates = [*SURVIVORS.iter_rows(named=True), survivor("x", generation=1)]
    for generation, names in enumerate((("a", "b", "c"), ("d", "x"))):
        rows = [{"gate": None, **row} for row in candidates if row["prompt_id"] in names]
        sealed = pl.DataFrame(rows, schema_overrides={"parents": TEXTS, "exemplars": TEXTS, "gate": pl.String})
        write_parquet(folder / "generations" / f"{generation:04d}.parquet", sealed)
        write_parquet(folder / "responses" / f"{generation:04d}.parquet", responses(*names))
    write_parquet(folder / "responses" / "retest.parquet", responses("a"))
    write_text(folder / "run.toml", RUN)
    warnings = ["/srv/our data/prompts.jsonl: 3 rows are empty", "the server http://10.0.0.7:8000/v1 was gone"]
    write_text(folder / "summary.json", json.dumps({"warnings": warnings}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return begun(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub that this process takes for its own, and a user who has logged in."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_of_me")
        yield server
        huggingface_hub.close_session()


def environment(server: HubServer, home: Path, **more: str) -> dict[str, str]:
    """For another process, since the libraries read these when they are imported."""
    own = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_of_me", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return os.environ | own | more


def exported(folder: Path, to: str, out: Path) -> list[dict[str, Any]]:
    return rows_of(export(folder, to=to, out=out).out)


def table(content: bytes) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(content))


READ_BACK = """
import json, sys
from datasets import get_dataset_config_names, load_dataset
names = get_dataset_config_names("me/data")
json.dump({name: list(load_dataset("me/data", name, split="train")) for name in names}, sys.stdout)
"""


@pytest.mark.slow
def test_what_was_published_is_read_back_equal_by_datasets(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fittest.runs.cli", "export", str(run), "--to", "hub:me/data"]
    with HubServer() as server:
        env = environment(server, tmp_path / "home")
        said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        read = subprocess.run([sys.executable, "-c", READ_BACK], env=env, check=True, capture_output=True, text=True)
    assert said == (
        f"published at {server.url}/datasets/me/data (private); pairs: 3 rows; prompts: 4 rows; responses: 15 rows\n"
    )
    found = json.loads(read.stdout)
    assert list(found) == ["pairs", "prompts", "responses"]
    assert found["pairs"] == exported(run, "trl-preference", tmp_path / "pairs.jsonl")
    assert found["prompts"] == exported(run, "prompts", tmp_path / "prompts.jsonl")
    drawn = pl.concat([responses("a", "b", "c"), responses("d", "x")])
    texts = {row["prompt_id"]: row["prompt"] for row in [*SURVIVORS.iter_rows(named=True), survivor("x")]}
    assert found["responses"] == [
        row | {"prompt": texts[row["prompt_id"]], "reward_id": "judge:1:openai:judge:10", "engine": "openai:llama-8b"}
        for row in drawn.iter_rows(named=True)
    ]


def test_one_commit_holds_a_configuration_for_each_table(run: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    repository = hub.repositories["me/data"]
    assert repository.messages == ["initial commit", "Publish pairs, prompts, responses"]
    configurations = {
        configuration["config_name"]: configuration["data_files"][0]["path"]
        for configuration in repository.card["configs"]
    }
    assert configurations == {
        "pairs": ["pairs/train-00000-of-00001.parquet"],
        "prompts": ["prompts/train-00000-of-00001.parquet"],
        "responses": ["responses/train-00000-of-00002.parquet", "responses/train-00001-of-00002.parquet"],
    }
    paths = {path for paths in configurations.values() for path in paths}
    assert set(repository.files) == paths | {".gitattributes", "README.md", "run.toml"}
    assert table(repository.files["responses/train-00001-of-00002.parquet"]).columns[:3] == [
        "prompt_id", "prompt", "sample"
    ]  # fmt: skip


def test_nothing_of_this_machine_is_published(run: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    files = hub.repositories["me/data"].files
    texts = {
        path: table(content).write_json() if path.endswith(".parquet") else content.decode()
        for path, content in files.items()
    }
    assert {
        (path, secret) for path, text in texts.items() for secret in (*SECRETS, str(run)) if secret in text
    } == set()
    assert texts["run.toml"] == (
        '[run]\nseed = 11\n\n[pool]\npath = "prompts.jsonl"\n\n'
        '[engine]\nkind = "openai"\nmodel = "llama-8b"\nsystem = "Answer in one line."\n\n'
        '[proposer]\nkind = "openai"\nmodel = "owner/small"\n\n[reward]\nkind = "judge"\nvotes = 10\n\n'
        '[reward.engine]\nkind = "openai"\nmodel = "judge"\n\n'
        '[fittest]\nschema = 1\n\n[fittest.fingerprints]\nengine = "openai:llama-8b"\n'
    )
    for line in (
        "# Data card: me/data",
        "- Warning: prompts.jsonl: 3 rows are empty",
        "- Warning: the server (left out) was gone",
        "| engine model | llama-8b |",
        "| reward engine model | judge |",
        "- The answers were written by llama-8b; that model's terms apply to them and are not in this table.",
        "- The prompts of every operator but pool were written by owner/small; that model's terms apply to them and "
        "are not in this table.",
    ):
        assert line in texts["README.md"].splitlines()


def test_the_front_matter_names_the_licences_as_a_hub_does(run: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    card = hub.repositories["me/data"].card
    # the responses hold a prompt that did not survive, whose licence is not on record
    assert card["license"] == ["apache-2.0", "mit", "other", "unknown"]
    assert card["license_name"] == "our-own-terms"
    for path in (run / "responses").iterdir():
        path.unlink()
    publish(run, "hub:me/less")
    assert hub.repositories["me/less"].card["license"] == ["apache-2.0", "mit", "other"]


@pytest.mark.parametrize(
    ("licence", "known"),
    [
        ("CC BY 4.0", ["cc-by-4.0"]),
        ("ODC-By-1.0", ["odc-by"]),
        ("GPL-3.0-or-later", ["gpl-3.0"]),
        (None, ["unknown"]),
        ("???", ["other"]),
    ],
)
def test_spellings_of_a_licence(tmp_path: Path, hub: HubServer, licence: str | None, known: list[str]) -> None:
    write_parquet(tmp_path / "survivors.parquet", frame(survivor("a", licence=licence)))
    publish(tmp_path, "hub:me/data")
    assert hub.repositories["me/data"].card["license"] == known


def test_a_data_set_is_private_unless_it_shall_be_public(run: Path, hub: HubServer) -> None:
    assert not publish(run, "hub:me/data").public
    assert publish(run, "hub:me/open", public=True).public
    assert {name: repository.private for name, repository in hub.repositories.items()} == {
        "me/data": True,
        "me/open": False,
    }
    with pytest.raises(FittestError, match=r"^hub:me/open: is public; add --public, or choose another name$"):
        publish(run, "hub:me/open")
    with pytest.raises(FittestError, match=r"^hub:me/data: is private; publish without --public, or make it public"):
        publish(run, "hub:me/data", public=True)
    assert [len(repository.commits) for repository in hub.repositories.values()] == [2, 2]


def test_publishing_again_replaces_the_files_in_one_more_commit(run: Path, hub: HubServer) -> None:
    assert publish(run, "hub:me/data").changed
    assert not publish(run, "hub:me/data").changed
    repository = hub.repositories["me/data"]
    assert len(repository.commits) == 2
    write_parquet(run / "survivors.parquet", SURVIVORS.head(1))
    (run / "responses" / "0001.parquet").unlink()
    assert publish(run, "hub:me/data").changed
    assert len(repository.commits) == 3
    assert sorted(path for path in repository.files if path.endswith(".parquet")) == [
        "pairs/train-00000-of-00001.parquet",
        "prompts/train-00000-of-00001.parquet",
        "responses/train-00000-of-00001.parquet",
    ]
    assert table(repository.files["prompts/train-00000-of-00001.parquet"])["prompt_id"].to_list() == ["a"]


def test_equal_runs_are_published_as_equal_bytes(run: Path, tmp_path: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    first = hub.repositories.pop("me/data").files
    publish(begun(tmp_path / "another"), "hub:me/data")
    assert hub.repositories["me/data"].files == first


def test_other_files_in_the_data_set_stay(run: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    repository = hub.repositories["me/data"]
    repository.commits.append(repository.files | {"pairs/notes.md": b"mine", "LICENSE": b"text"})
    write_parquet(run / "survivors.parquet", SURVIVORS.head(1))
    publish(run, "hub:me/data")
    assert repository.files["pairs/notes.md"] == b"mine"
    assert repository.files["LICENSE"] == b"text"


def test_a_data_set_of_another_origin_is_not_overwritten(run: Path, hub: HubServer) -> None:
    hub.repositories["me/data"] = Repository(private=True)
    hub.repositories["me/data"].files["README.md"] = b"---\ntags: [art]\n---\n# Pictures\n"
    with pytest.raises(FittestError, match=r"^hub:me/data: holds a data set that fittest did not publish"):
        publish(run, "hub:me/data")
    assert len(hub.repositories["me/data"].commits) == 1


def test_a_folder_without_responses_publishes_the_rest_and_says_so(tmp_path: Path, hub: HubServer) -> None:
    folder = tmp_path / "filtered"
    write_parquet(folder / "survivors.parquet", SURVIVORS)
    published = publish(folder, "hub:me/data")
    assert published.rows == {"pairs": 3, "prompts": 4}
    assert str(published).endswith("no responses: filtered holds no responses/NNNN.parquet with rows")
    assert "run.toml" not in hub.repositories["me/data"].files


def test_a_configuration_without_rows_is_left_out(tmp_path: Path, hub: HubServer) -> None:
    write_parquet(tmp_path / "survivors.parquet", frame(survivor("c", chosen="same", rejected="same")))
    assert "no pairs: no survivor gives a row" in str(publish(tmp_path, "hub:me/data"))
    card = hub.repositories["me/data"].card
    assert [configuration["config_name"] for configuration in card["configs"]] == ["prompts"]
    write_parquet(tmp_path / "survivors.parquet", SURVIVORS.clear())
    with pytest.raises(FittestError, match="has no rows to publish"):
        publish(tmp_path, "hub:me/none")
    assert "me/none" not in hub.repositories


def test_responses_to_prompts_that_no_generation_holds_are_refused(run: Path, hub: HubServer) -> None:
    write_parquet(run / "responses" / "0001.parquet", responses("d", "stranger"))
    with pytest.raises(FittestError, match=r"0001\.parquet: holds responses to prompts that are not in"):
        publish(run, "hub:me/data")
    (run / "generations" / "0001.parquet").unlink()
    with pytest.raises(FittestError, match=r"0001\.parquet: cannot be read with .*generations.0001\.parquet"):
        publish(run, "hub:me/data")
    assert not hub.repositories


@pytest.mark.parametrize("to", ["hub:data", "hub:me/", "hub:/data", "hub:me/my data", "hub:a/b/c", "hub:"])
def test_a_destination_that_is_no_name_is_refused(run: Path, hub: HubServer, to: str) -> None:
    with pytest.raises(FittestError, match=r"should be hub:owner/name"):
        publish(run, to)
    assert not hub.asked


def test_without_a_token_nothing_is_asked(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FittestError, match=r"^hub:me/data: no token; set HF_TOKEN, or log in with `hf auth login`$"):
        publish(run, "hub:me/data")
    assert not hub.asked
    Path(constants.HF_TOKEN_PATH).write_text("hf_of_me")
    assert publish(run, "hub:me/data").changed


@pytest.mark.parametrize(
    ("token", "to", "message"),
    [
        ("hf_wrong", "hub:me/data", r"hub:me/data: the token is not accepted; .* \(Invalid credentials"),
        ("hf_of_me", "hub:nobody/data", r"hub:nobody/data: the token may not write for 'nobody'; .* \(You don't have"),
        ("hf_of_me", "hub:you/open", r"hub:you/open: the token may not write for 'you'; .* \(You don't have write"),
    ],
)
def test_a_refusal_is_one_line(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str, to: str, message: str
) -> None:
    hub.repositories["you/open"] = Repository(private=False)
    monkeypatch.setenv("HF_TOKEN", token)
    result = CliRunner().invoke(main, ["export", str(run), "--to", to, *(["--public"] if "open" in to else [])])
    assert result.exit_code == 2
    assert result.output.startswith("fittest: ")
    (line,) = result.output.splitlines()
    assert re.search(message, line)
    assert token not in line
    assert len(hub.repositories["you/open"].commits) == 1


def test_a_hub_that_is_not_there_is_one_line(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as gone:
        pass
    monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    with pytest.raises(FittestError, match=rf"^hub:me/data: not published at {gone.url} \(ConnectError: .*refused\)$"):
        publish(run, "hub:me/data")


def test_of_two_that_publish_at_once_the_second_is_told(run: Path, hub: HubServer) -> None:
    publish(run, "hub:me/data")
    hub.meddles = True
    write_parquet(run / "survivors.parquet", SURVIVORS.head(1))
    with pytest.raises(FittestError, match=r"^hub:me/data: somebody else has changed the data set just now"):
        publish(run, "hub:me/data")
    assert hub.repositories["me/data"].files["notes.md"] == b"of somebody else"


def test_metadata_that_the_hub_refuses_is_one_line(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hub_server.LICENCES", set())
    with pytest.raises(FittestError, match=r"^hub:me/data: not published at .* \(ValueError: [^\n]*license[^\n]*\)$"):
        publish(run, "hub:me/data")


def test_a_missing_library_is_named_with_its_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FittestError, match=r'needs huggingface_hub, .*pip install "fittest\[embedded\]"'):
        publish(run, "hub:me/data")


def test_options_that_do_not_go_together_are_refused(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.jsonl")
    for given, message in (
        (["--to", "hub:me/data", "--out", out], "--to hub:owner/name takes no --out"),
        (["--to", "prompts"], "--to prompts needs --out FILE"),
        (["--to", "prompts", "--out", out, "--public"], "--to prompts takes no --public"),
    ):
        result = CliRunner().invoke(main, ["export", str(run), *given])
        assert (result.exit_code, message in result.output) == (2, True)


def test_xet_takes_the_place_of_the_older_upload_where_the_hub_has_it(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fittest.runs.cli", "export", str(run), "--to", "hub:me/data"]
    with HubServer(xet=tmp_path / "chunks") as server:
        env = environment(server, tmp_path / "home", HF_HUB_DISABLE_XET="0")
        subprocess.run(command, env=env, check=True, capture_output=True)
        announced = server.repositories["me/data"].files["prompts/train-00000-of-00001.parquet"].decode()
        prompts = export(run, to="prompts", out=tmp_path / "prompts.parquet").out
        assert announced == hashlib.sha256(prompts.read_bytes()).hexdigest()
        assert not server.uploaded
        assert list((tmp_path / "chunks").rglob("*.mdb"))
        server.xet = None
        write_parquet(run / "survivors.parquet", SURVIVORS.head(1))
        failed = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].endswith("; if this hub has no Xet storage, set HF_HUB_DISABLE_XET=1")


def test_the_server_of_these_tests_reads_front_matter() -> None:
    assert front_matter("---\nlicense: [mit]\n---\n# A\n---\n") == {"license": ["mit"]}
    assert front_matter("# A\n") == {}
