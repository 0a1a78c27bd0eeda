"""A hub of data sets on the loopback, in memory: what huggingface_hub asks to publish, and datasets to read back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import web

LICENCES = {"mit", "apache-2.0", "cc-by-4.0", "odc-by", "gpl-3.0", "other", "unknown"}
"""A part of those that the real hub accepts; it refuses a card that names any other."""

TREE = "/api/datasets/{owner}/{name}/tree/{revision}"
FILE = "/datasets/{owner}/{name}/resolve/{revision}/{path:.+}"


@dataclass
class Repository:
    """A data set; `commits` holds its files as of each commit, the last one at the end."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.parquet filter=lfs\n"}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def card(self) -> dict[str, Any]:
        return front_matter(self.files.get("README.md", b"").decode())

    def sha(self, number: int = -1) -> str:
        number %= len(self.commits)
        return hashlib.sha1(f"{number}".encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes] | None:
        shas = {self.sha(number): files for number, files in enumerate(self.commits)}
        return self.files if revision == "main" else shas.get(revision)


def front_matter(text: str) -> dict[str, Any]:
    _, dashes, rest = text.partition("---\n")
    return dict(yaml.safe_load(rest.partition("\n---\n")[0])) if dashes else {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(".parquet")


def refusal(status: int, message: str, code: str = "") -> web.Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


@dataclass
class HubServer:
    """The hub; a token belongs to a user, who may write in a namespace of that name alone.

    With `xet`, files are stored as chunks in that folder; with `meddles`, somebody else commits before everyone.
    """

    users: dict[str, str] = field(default_factory=lambda: {"hf_of_me": "me"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    xet: Path | None = None
    meddles: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(ready),))
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**28, middlewares=[self._noted])
        app.add_routes(self._routes())
        runner = web.AppRunner(app, shutdown_timeout=0.01, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._over.wait()
        assert runner.server is not None
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    @web.middleware
    async def _noted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        return await handler(request)

    def _routes(self) -> Iterator[web.RouteDef]:
        repository = "/api/datasets/{owner}/{name}"
        yield web.post("/api/repos/create", self._create)
        yield web.post("/api/validate-yaml", self._validate)
        yield web.get(repository, self._info)
        yield web.get(f"{repository}/revision/{{revision}}", self._info)
        yield web.post(f"{repository}/preupload/{{revision}}", self._preupload)
        yield web.post("/datasets/{owner}/{name}.git/info/lfs/objects/batch", self._batch)
        yield web.put("/large/{oid}", self._upload)
        yield web.get(f"{repository}/xet-write-token/{{revision}}", self._xet_token)
        yield web.post(f"{repository}/commit/{{revision}}", self._commit)
        yield web.get(TREE, self._tree)
        yield web.get(f"{TREE}/{{path:.+}}", self._tree)
        yield web.post(f"{repository}/paths-info/{{revision}}", self._paths)
        yield web.get(FILE, self._file)

    def _user(self, request: web.Request) -> str | None:
        return self.users.get(request.headers.get("Authorization", "").removeprefix("Bearer "))

    def _readable(self, request: web.Request) -> Repository:
        repository = self.repositories.get("{owner}/{name}".format(**request.match_info))
        user = self._user(request)
        if user is None and "Authorization" in request.headers:
            raise _as_error(refusal(401, "Invalid credentials in Authorization header"))
        if repository is None or (repository.private and user != request.match_info["owner"]):
            raise _as_error(refusal(404 if user else 401, "Repository not found", "RepoNotFound"))
        return repository

    def _writable(self, request: web.Request) -> Repository:
        repository = self._readable(request)
        if self._user(request) != request.match_info["owner"]:
            raise _as_error(refusal(403, "You don't have write access"))
        return repository

    async def _create(self, request: web.Request) -> web.Response:
        asked, user = await request.json(), self._user(request)
        if user is None:
            return refusal(401, "Invalid credentials in Authorization header")
        if asked["organization"] != user:
            return refusal(403, f"You don't have the rights to create a dataset under {asked['organization']}")
        assert asked["type"] == "dataset"
        name = f"{user}/{asked['name']}"
        if name in self.repositories:
            return refusal(409, "You already created this dataset repo")
        self.repositories[name] = Repository(private=asked.get("visibility") == "private")
        return web.json_response({"url": f"{self.url}/datasets/{name}", "name": name})

    async def _validate(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["repoType"] == "dataset"
        licences = front_matter(asked["content"]).get("license", [])
        if wrong := set(licences) - LICENCES:
            return web.json_response({"errors": [{"message": f"license {wrong}"}], "warnings": []}, status=400)
        return web.json_response({"errors": [], "warnings": []})

    async def _info(self, request: web.Request) -> web.Response:
        repository = self._readable(request)
        if repository.at(request.match_info.get("revision", "main")) is None:
            return refusal(404, "Invalid rev id", "RevisionNotFound")
        card = repository.card
        return web.json_response(
            {
                "id": "{owner}/{name}".format(**request.match_info),
                "sha": repository.sha(),
                "private": repository.private,
                "tags": [*card.get("tags", []), *(f"license:{licence}" for licence in card.get("license", []))],
                "cardData": card,
                "siblings": [{"rfilename": path} for path in repository.files],
            }
        )

    async def _preupload(self, request: web.Request) -> web.Response:
        repository = self._writable(request)
        files = repository.files
        if self.meddles:
            repository.commits.append(files | {"notes.md": b"of somebody else"})
        answers = []
        for file in (await request.json())["files"]:
            path, content = file["path"], files.get(file["path"])
            large = is_large(path)
            oid = None if content is None else hashlib.sha256(content).hexdigest() if large else git_oid(content)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return web.json_response({"files": answers})

    async def _batch(self, request: web.Request) -> web.Response:
        self._writable(request)
        objects = []
        for wanted in (await request.json())["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}
            objects.append(wanted | ({} if wanted["oid"] in self.uploaded else upload))
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _upload(self, request: web.Request) -> web.Response:
        content, oid = await request.read(), request.match_info["oid"]
        if hashlib.sha256(content).hexdigest() != oid:
            return refusal(400, "the content is not what was announced")
        self.uploaded[oid] = content
        return web.Response()

    async def _xet_token(self, request: web.Request) -> web.Response:
        self._writable(request)
        if self.xet is None:
            return refusal(404, "Not found")
        # hf_xet takes a folder for a server of chunks
        token = {"accessToken": "x", "exp": 2**32, "casUrl": f"local://{self.xet}"}
        headers = {"X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": str(2**32), "X-Xet-Cas-Url": token["casUrl"]}
        return web.json_response(token, headers=headers)

    async def _commit(self, request: web.Request) -> web.Response:
        repository = self._writable(request)
        files = dict(repository.files)
        for line in (await request.text()).splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    if value.get("parentCommit", repository.sha()) != repository.sha():
                        return refusal(412, "A commit has happened since")
                    repository.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    # which chunks make the file is known to the server of chunks alone
                    unknown = value["oid"].encode() if self.xet else None
                    files[value["path"]] = unknown or self.uploaded[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise AssertionError(other)
        repository.commits.append(files)
        sha = repository.sha()
        url = f"{self.url}/datasets/{request.match_info['owner']}/{request.match_info['name']}/commit/{sha}"
        return web.json_response({"success": True, "commitOid": sha, "commitUrl": url})

    async def _tree(self, request: web.Request) -> web.Response:
        files = self._readable(request).at(request.match_info["revision"])
        folder = request.match_info.get("path", "")
        if files is None:
            return refusal(404, "Invalid rev id", "RevisionNotFound")
        entries = list(_entries(files))
        found = [entry for entry in entries if not folder or entry["path"].startswith(f"{folder}/")]
        if request.query.get("recursive", "").lower() not in ("true", "1"):
            depth = folder.count("/") + 1 if folder else 0
            found = [entry for entry in found if entry["path"].count("/") == depth]
        if folder and not found:
            return refusal(404, f"{folder} does not exist", "EntryNotFound")
        return web.json_response(found)

    async def _paths(self, request: web.Request) -> web.Response:
        files = self._readable(request).at(request.match_info["revision"]) or {}
        wanted = (await request.post()).getall("paths")
        return web.json_response([entry for entry in _entries(files) if entry["path"] in wanted])

    async def _file(self, request: web.Request) -> web.Response:
        repository = self._readable(request)
        files = repository.at(request.match_info["revision"])
        path = request.match_info["path"]
        headers = {"X-Repo-Commit": repository.sha()}
        if files is None or path not in files:
            answer = refusal(404, "Entry not found", "EntryNotFound")
            answer.headers.update(headers)
            return answer
        content = files[path]
        oid = hashlib.sha256(content).hexdigest() if is_large(path) else git_oid(content)
        if (part := request.http_range).start is not None:
            whole, content = content, content[part.start : part.stop]
            headers["Content-Range"] = f"bytes {part.start}-{part.start + len(content) - 1}/{len(whole)}"
            return web.Response(body=content, status=206, headers=headers | {"ETag": f'"{oid}"'})
        return web.Response(body=content, headers=headers | {"ETag": f'"{oid}"'})


def _entries(files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
    folders = {path.rpartition("/")[0] for path in files} - {""}
    for folder in sorted(folders):
        yield {"type": "directory", "path": folder, "oid": git_oid(folder.encode())}
    for path, content in sorted(files.items()):
        digest = hashlib.sha256(content).hexdigest()
        large = {"lfs": {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 130}}
        yield {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)} | (
            large if is_large(path) else {}
        )


def _as_error(response: web.Response) -> web.HTTPException:
    """Raised instead of returned, it ends a handler from within what it calls."""
    kinds = {401: web.HTTPUnauthorized, 403: web.HTTPForbidden, 404: web.HTTPNotFound}
    headers = {key: value for key, value in response.headers.items() if key.startswith("X-")}
    return kinds[response.status](text=response.text, headers=headers)
