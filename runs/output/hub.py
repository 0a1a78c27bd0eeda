"""Publishes a run on a hub of data sets: pairs, prompts and responses as configurations of one data set."""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl
import tomli_w

from fittest.evo.errors import FittestError
from fittest.runs.output.atomic import write_parquet
from fittest.runs.output.card import HUB_TAG, data_card, front_matter
from fittest.runs.output.export import export
from fittest.runs.output.public import public_tables, public_text
from fittest.runs.output.survivors import read_survivors

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

SCHEME = "hub:"
"""What the destination of a publication begins with."""

_EXPORTS = {"pairs": "trl-preference", "prompts": "prompts"}
"""The configurations that are exports, and the exporter of each."""

_SECONDS_TO_FIRST_ANSWER = 15.0
"""How long the first question to a hub may take; without a limit, a hub that is silent would never be named."""

_CONFIGURATION_FILE = "run.toml"


@dataclass(frozen=True, slots=True)
class _Publication:
    """Says what was published.

    Attributes:
        url: the address of the data set.
        rows: how many rows each configuration has.
        absent: for each configuration that has no rows, the reason.
        public: whether everybody can read it.
        changed: whether there was anything new; if not, no commit was made.
    """

    url: str
    rows: Mapping[str, int]
    absent: Mapping[str, str]
    public: bool
    changed: bool

    def __str__(self) -> str:
        """Returns one line for the terminal."""
        parts = [f"{name}: {rows} rows" for name, rows in self.rows.items()]
        parts += [f"no {name}: {reason}" for name, reason in self.absent.items()]
        verb = "published" if self.changed else "unchanged"
        return f"{verb} at {self.url} ({'public' if self.public else 'private'}); {'; '.join(parts)}"


@dataclass(frozen=True, slots=True)
class _Configuration:
    """One configuration of the data set, with its files on this machine, and a line for the card."""

    name: str
    files: Sequence[Path]
    rows: int
    said: str

    def paths(self) -> list[str]:
        """Returns the names of its files in the data set."""
        return [
            f"{self.name}/train-{number:05d}-of-{len(self.files):05d}.parquet" for number in range(len(self.files))
        ]


def publish(folder: Path, to: str, *, public: bool = False) -> _Publication:
    """Publishes the folder of a run or a filter as one commit; publishing again replaces its files.

    The token is that of huggingface_hub: HF_TOKEN, or a login. The hub is the one of HF_ENDPOINT.

    Args:
        folder: the folder; without responses/, pairs and prompts are published alone.
        to: hub:owner/name.
        public: whether everybody may read it. A data set that exists must be what is asked for already.

    Raises:
        FittestError: there is nothing to publish, or the hub cannot be reached or refuses.
    """
    name = _repository(to)
    api = _api(to)
    survivors = read_survivors(folder)
    with TemporaryDirectory(prefix="fittest-") as temporary:
        found = list(_configurations(folder, Path(temporary)))
        configurations = [configuration for configuration in found if configuration.rows]
        if not configurations:
            raise FittestError(f"{folder}: has no rows to publish")
        texts = _texts(folder, survivors, configurations, name)
        with _refusals(to, api):
            before = _repository_for(api, name, public, to)
            changed = _commit(api, name, before, configurations, texts)
    return _Publication(
        url=f"{api.endpoint}/datasets/{name}",
        rows={configuration.name: configuration.rows for configuration in configurations},
        absent={configuration.name: configuration.said for configuration in found if not configuration.rows},
        public=public,
        changed=changed,
    )


def _configurations(folder: Path, temporary: Path) -> Iterator[_Configuration]:
    """Writes the tables of each configuration to a temporary folder; one without rows has no files."""
    for name, exporter in _EXPORTS.items():
        file = temporary / f"{name}.parquet"
        result = export(folder, to=exporter, out=file)
        said = f"{name}: {result.rows} rows in the form of {exporter}, {result.skipped} survivors left out"
        yield _Configuration(name, [file], result.rows, said if result.rows else "no survivor gives a row")
    yield _responses(folder, temporary)


def _responses(folder: Path, temporary: Path) -> _Configuration:
    """Joins every sealed table of responses with the prompts' texts, one generation at a time."""
    sealed = sorted((folder / "responses").glob("[0-9]*.parquet"))
    if not sealed:
        return _Configuration("responses", [], 0, f"{folder} holds no responses/")
    tables = _tables(folder)
    files, rows = [], 0
    for path in sealed:
        table = _with_prompts(path, folder / "generations" / path.name)
        if table.height:
            files.append(temporary / f"responses-{path.name}")
            write_parquet(files[-1], _without_paths(table, tables, folder))
            rows += table.height
    said = f"responses: {rows} rows, every answer that was drawn, also to prompts that did not survive"
    return _Configuration("responses", files, rows, said if rows else "no answer was drawn")


def _with_prompts(responses: Path, generation: Path) -> pl.DataFrame:
    """Returns the responses of one generation with a column `prompt` beside `prompt_id`."""
    try:
        table = pl.read_parquet(responses, glob=False)
        prompts = pl.read_parquet(generation, columns=["prompt_id", "prompt"], glob=False).unique("prompt_id")
        joined = table.join(prompts, on="prompt_id", how="left", maintain_order="left")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise FittestError(f"{responses}: cannot be read with {generation} ({reason})") from error
    if joined["prompt"].null_count():
        raise FittestError(f"{responses}: holds responses to prompts that are not in {generation}")
    return joined.select("prompt_id", "prompt", pl.exclude("prompt_id", "prompt"))


def _without_paths(table: pl.DataFrame, tables: Mapping[str, Any], folder: Path) -> pl.DataFrame:
    """Shortens fingerprints that hold a path, which the name of a served model may be, to the file's name."""
    for column in ("engine", "reward_id"):
        if column in table.columns:
            known = table[column].drop_nulls().unique().to_list()
            table = table.with_columns(
                pl.col(column).replace({text: public_text(text, tables, folder) for text in known})
            )
    return table


def _texts(
    folder: Path, survivors: pl.DataFrame, configurations: Sequence[_Configuration], name: str
) -> dict[str, str]:
    """Returns the files of the data set that are text: the card, and the configuration if there is one."""
    tables = _tables(folder)
    only_survivors = all(configuration.name in _EXPORTS for configuration in configurations)
    said = [*(configuration.said for configuration in configurations), *_how_to_load(name, configurations)]
    head = front_matter(
        survivors,
        {configuration.name: configuration.paths() for configuration in configurations},
        title=name.partition("/")[2],
        complete=only_survivors,
    )
    card = public_text(data_card(folder, survivors, said, title=name), tables, folder)
    texts = {"README.md": head + card}
    if tables:
        texts[_CONFIGURATION_FILE] = _configuration_text(tables, folder)
    return texts


def _how_to_load(name: str, configurations: Sequence[_Configuration]) -> Iterator[str]:
    calls = (f'`datasets.load_dataset("{name}", "{configuration.name}")`' for configuration in configurations)
    yield f"Read with {', '.join(calls)}."


def _configuration_text(tables: Mapping[str, Any], folder: Path) -> str:
    """Returns run.toml as it may be published; fingerprints may hold the path of a model."""
    public = public_tables(tables)
    facts = public.get("fittest", {})
    if "fingerprints" in facts:
        facts["fingerprints"] = {
            part: public_text(str(print_), tables, folder) for part, print_ in facts["fingerprints"].items()
        }
    return tomli_w.dumps(public)


def _tables(folder: Path) -> dict[str, Any]:
    """Returns the tables of run.toml as they are, or none: the folder of a filter has no such file."""
    path = folder / _CONFIGURATION_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise FittestError(f"{path}: cannot be read ({error})") from error


def _repository_for(api: HfApi, name: str, public: bool, to: str) -> DatasetInfo:
    """Returns the repository, which is created unless it exists, and says how others would see it.

    Args:
        api: the hub.
        name: owner/name.
        public: whether everybody should see it.
        to: the destination in the user's words.

    Raises:
        FittestError: it exists and is more public, or more private, than was asked for, or is not one of ours.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(name, timeout=_SECONDS_TO_FIRST_ANSWER)
    except RepositoryNotFoundError:
        api.create_repo(name, repo_type="dataset", private=not public, exist_ok=True)
        info = api.dataset_info(name, timeout=_SECONDS_TO_FIRST_ANSWER)
    if public and info.private:
        raise FittestError(f"{to}: is private; publish without --public, or make it public in its settings first")
    if not public and not info.private:
        raise FittestError(f"{to}: is public; add --public, or choose another name")
    foreign = set(_files(info)) - {".gitattributes"}
    if foreign and HUB_TAG not in (info.tags or []):
        raise FittestError(f"{to}: holds a data set that fittest did not publish; choose another name")
    return info


def _files(info: DatasetInfo) -> list[str]:
    return [sibling.rfilename for sibling in info.siblings or []]


def _commit(
    api: HfApi,
    name: str,
    before: DatasetInfo,
    configurations: Sequence[_Configuration],
    texts: Mapping[str, str],
) -> bool:
    """Makes one commit of all files, less those of an earlier publication; returns whether there was any change."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files: dict[str, Path | bytes] = {path: text.encode() for path, text in texts.items()}
    for configuration in configurations:
        files.update(zip(configuration.paths(), configuration.files, strict=True))
    stale = [path for path in _files(before) if _is_ours(path) and path not in files]
    commit = api.create_commit(
        name,
        [
            *(CommitOperationDelete(path) for path in stale),
            *(CommitOperationAdd(path, content) for path, content in files.items()),
        ],
        repo_type="dataset",
        commit_message=f"Publish {', '.join(configuration.name for configuration in configurations)}",
        commit_description=f"Made by fittest {_version()}.",
    )
    return commit.oid != before.sha


def _is_ours(path: str) -> bool:
    return path == _CONFIGURATION_FILE or path.startswith(tuple(f"{name}/train-" for name in (*_EXPORTS, "responses")))


def _repository(to: str) -> str:
    """Returns owner/name.

    Args:
        to: hub:owner/name.

    Raises:
        FittestError: it is written otherwise, or huggingface_hub is not installed.
    """
    try:
        from huggingface_hub.utils import validate_repo_id
    except ImportError:
        raise FittestError(
            f'{to}: needs huggingface_hub, which comes with embedded and train: pip install "fittest[embedded]"'
        ) from None
    name = to.removeprefix(SCHEME)
    try:
        validate_repo_id(name)
        owner, _, rest = name.partition("/")
    except ValueError:  # the library's error names a rule, not the form of a destination
        owner = rest = ""
    if not owner or not rest:
        raise FittestError(f"{to}: should be {SCHEME}owner/name, of letters, digits, -, _ and .")
    return name


def _api(to: str) -> HfApi:
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise FittestError(f"{to}: no token; set HF_TOKEN, or log in with `hf auth login`")
    return HfApi(token=token, library_name="fittest", library_version=_version())


@contextmanager
def _refusals(to: str, api: HfApi) -> Iterator[None]:
    """Turns what the hub refuses, and what does not reach it, into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    owner = to.removeprefix(SCHEME).partition("/")[0]
    meanings = {
        401: "the token is not accepted; set HF_TOKEN, or log in with `hf auth login`",
        403: f"the token may not write for {owner!r}; is that owner right, and has the token write access?",
        404: f"there is no owner {owner!r}, or the token may not see its data sets",
    }
    try:
        yield
    except FittestError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or f"status {status}"
        raise FittestError(f"{to}: {meanings.get(status, 'refused')} ({_one_line(said)})") from error
    # the libraries below have no common base for an address that is wrong, a network that is down, an upload that
    # breaks, and metadata that a hub refuses
    except Exception as error:
        reason = _one_line(error.__cause__ or error)
        raise FittestError(f"{to}: not published at {api.endpoint} ({type(error).__name__}: {reason})") from error


def _one_line(said: object) -> str:
    return " ".join(str(said).split()) or type(said).__name__


def _version() -> str:
    return importlib.metadata.version("fittest")
