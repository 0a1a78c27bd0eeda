"""Publishes a run on a hub of data sets: pairs, prompts and responses as configurations of one data set."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fittest.evo.errors import FittestError
from fittest.runs.output.hub_card import HUB_TAG
from fittest.runs.output.hub_contents import HubContents, contents_of, is_ours

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import DatasetInfo

_SCHEME = "hub:"

_SECONDS_TO_FIRST_ANSWER = 15.0
"""How long the first question to a hub may take; without a limit, a hub that is silent would never be named."""


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
        counts = [f"{name}: {rows} rows" for name, rows in self.rows.items()]
        counts += [f"no {name}: {reason}" for name, reason in self.absent.items()]
        verb = "published" if self.changed else "unchanged"
        return f"{verb} at {self.url} ({'public' if self.public else 'private'}); {'; '.join(counts)}"


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
    with TemporaryDirectory(prefix="fittest-") as temporary:
        contents = contents_of(folder, Path(temporary), name)
        if not contents.rows:
            raise FittestError(f"{folder}: has no rows to publish")
        with _refusals(to, api):
            before = _checked_or_created(api, name, public, to)
            changed = _commit(api, name, before, contents)
    return _Publication(f"{api.endpoint}/datasets/{name}", contents.rows, contents.absent, public, changed)


def _repository(to: str) -> str:
    """Returns owner/name, if it is written like that."""
    name = to.removeprefix(_SCHEME)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise FittestError(f"{to}: should be {_SCHEME}owner/name, of letters, digits, -, _ and .")
    return name


def _api(to: str) -> HfApi:
    """Returns the hub of HF_ENDPOINT with the user's token.

    Args:
        to: the destination in the user's words.

    Raises:
        FittestError: huggingface_hub is not installed, or knows no token.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError:
        raise FittestError(
            f'{to}: needs huggingface_hub, which comes with embedded and train: pip install "fittest[embedded]"'
        ) from None
    token = get_token()
    if token is None:
        raise FittestError(f"{to}: no token; set HF_TOKEN, or log in with `hf auth login`")
    return HfApi(token=token, library_name="fittest", library_version=_version())


def _checked_or_created(api: HfApi, name: str, public: bool, to: str) -> DatasetInfo:
    """Returns the repository as it is, which is created unless it exists.

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
    # the hub ignores what is asked for when the data set exists, and to change it unasked would show or hide
    # what others have put there
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


def _commit(api: HfApi, name: str, before: DatasetInfo, contents: HubContents) -> bool:
    """Makes one commit of all files, less those of an earlier publication; returns whether there was any change."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    files = contents.files()
    stale = [path for path in _files(before) if is_ours(path) and path not in files]
    commit = api.create_commit(
        name,
        [
            *(CommitOperationDelete(path) for path in stale),
            *(CommitOperationAdd(path, content) for path, content in files.items()),
        ],
        repo_type="dataset",
        commit_message=f"Publish {', '.join(contents.rows)}",
        commit_description=f"Made by fittest {_version()}.",
        # of two that publish at the same time, the second one must not delete what it has not seen
        parent_commit=before.sha,
    )
    return commit.oid != before.sha


@contextmanager
def _refusals(to: str, api: HfApi) -> Iterator[None]:
    """Turns what the hub refuses, and what does not reach it, into one line."""
    from huggingface_hub.errors import HfHubHTTPError

    owner = to.removeprefix(_SCHEME).partition("/")[0]
    meanings = {
        401: "the token is not accepted; set HF_TOKEN, or log in with `hf auth login`",
        403: f"the token may not write for {owner!r}; is that owner right, and has the token write access?",
        404: f"there is no owner {owner!r}, or the token may not see its data sets",
        412: "somebody else has changed the data set just now; publish again",
    }
    try:
        yield
    except FittestError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or f"status {status}"
        raise FittestError(f"{to}: {meanings.get(status, 'refused')} ({_one_line(said)})") from None
    # the libraries below have no common base for an address that is wrong, a network that is down, an upload that
    # breaks, and metadata that a hub refuses
    except Exception as error:
        reason = _one_line(error.__cause__ or error)
        hint = "; if this hub has no Xet storage, set HF_HUB_DISABLE_XET=1" if "xet-write-token" in reason else ""
        raise FittestError(f"{to}: not published at {api.endpoint} ({type(error).__name__}: {reason}){hint}") from None


def _one_line(said: object) -> str:
    return " ".join(str(said).split()) or type(said).__name__


def _version() -> str:
    return importlib.metadata.version("fittest")
