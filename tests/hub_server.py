"""A faithful Hugging Face Hub on 127.0.0.1 for the real client: what push, pull and streaming need, with its refusals.

- Accounts: tokens that may write, only read, or have expired ([`HubServer.tokens`]). Who may not see a repository is
  told that there is none (404, or 401 without a token), who may not write gets 403.
- Repositories of models and data sets, private or not, as commits of whole files on branches, with tags. A commit
  happens whole or not at all; with a parent that is not the head it is refused (412). It lives in memory.
- Large files by the LFS protocol: batch, upload in one part or several (above [`HubServer.part_size`]) to signed
  addresses, checked by size and SHA-256. They are downloaded from another host name, with `X-Linked-Etag` and
  `X-Linked-Size`, by ranges if asked.
- Everything that goes wrong, on demand: [`HubServer.line`] refuses single requests with any status and headers, waits,
  and breaks connections behind any byte (`tests/hub/faults.py`).

Given up: Xet (clients are told to do without), pull requests, spaces, and the rate limits of the real one.

Clients are other processes, started with [`HubServer.environment`], because `huggingface_hub` reads its address when
it is imported; `tests/hub/client.py` is one that takes many calls.
"""

import hashlib
import json
import os
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub.faults import Line
from tests.hub.files import FileHandler
from tests.hub.storage import Account, Files, Refusal, Repository

TOKEN = "hf_loopback"
READ_TOKEN, EXPIRED_TOKEN, STRANGER_TOKEN = "hf_read", "hf_expired", "hf_stranger"
REPOSITORY = r"(?P<repo_id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{REPOSITORY}"
FILES = rf"/(?P<kind>datasets/)?{REPOSITORY}"
ROUTES = {  # method and path of a request -> the method of _Handler that answers it
    r"GET /api/whoami-v2": "whoami",
    r"POST /api/validate-yaml": "validate_card",
    r"POST /api/repos/create": "create",
    r"DELETE /api/repos/delete": "delete",
    rf"GET {API}(/revision/{REVISION})?": "info",
    rf"GET {API}/refs": "refs",
    rf"GET {API}/commits/{REVISION}": "commits",
    rf"GET {API}/tree/{REVISION}(/(?P<folder>.+))?": "tree",
    rf"POST {API}/paths-info/{REVISION}": "paths_info",
    rf"POST {API}/preupload/{REVISION}": "preupload",
    rf"POST {API}/commit/{REVISION}": "commit",
    rf"PUT {API}/settings": "settings",
    rf"(?P<method>POST|DELETE) {API}/(?P<what>branch|tag)/(?P<name>.+)": "reference",
    rf"POST {FILES}\.git/info/lfs/objects/batch": "batch",
    r"POST /lfs/verify": "verify",
    r"PUT /lfs/(?P<oid>[0-9a-f]{64})(/(?P<part>\d+))?": "upload",
    r"POST /lfs/(?P<oid>[0-9a-f]{64})/complete": "complete",
    rf"(GET|HEAD) {FILES}/resolve/{REVISION}/(?P<path>.+)": "resolve",
    r"(GET|HEAD) /cdn/(?P<oid>[0-9a-f]{64})": "download",
}


class HubServer:
    """
    The server, as a context manager; an error of its own is raised when it ends.

    Attributes:
        url: Its address.
        repositories: [`Repository`] by kind (`"model"` or `"dataset"`) and id.
        tokens: [`Account`] by token.
        objects: Large files by their SHA-256.
        part_size: Larger files are uploaded in parts of so many bytes.
        page_size: Entries in one page of a listing.
        line: What goes wrong, see [`Line`].
        requests: Method and path of every request so far.
        exchanges: The same in full, see `tests/hub/transcript.py`.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.tokens = {
            TOKEN: Account("tester"),
            READ_TOKEN: Account("tester", role="read"),
            EXPIRED_TOKEN: Account("tester", expired=True),
            STRANGER_TOKEN: Account("stranger"),
        }
        self.objects: Files = {}
        self.parts: dict[str, Files] = {}
        self.part_size = 16 * 2**20
        self.page_size = 1000
        self.line = Line()
        self.requests: list[str] = []
        self.exchanges: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage_url = f"http://localhost:{self._server.server_port}"  # another host, as clients see it

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._server.errors and error[0] is None:
            raise self._server.errors[0]

    def environment(self, home: os.PathLike[str], *, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a client: this server, `home` for its caches, and a token to write with."""
        offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
        environment = {name: value for name, value in os.environ.items() if name not in offline}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": f"{os.fspath(home)}/modules",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return environment | ({} if token is None else {"HF_TOKEN": token})

    def files(self, repo_id: str, *, kind: str = "model", revision: str = "main") -> Files:
        """What was pushed to a repository: content by path, without the `.gitattributes` of every repository."""
        repository = self.repositories[kind, repo_id]
        files = repository.commits[repository.find(revision)]
        return {path: content for path, content in files.items() if path != ".gitattributes"}

    def signature(self, oid: str) -> str:
        """What makes an address of the storage work without a token."""
        return hashlib.sha256(f"signed {oid}".encode()).hexdigest()[:16]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.errors: list[BaseException] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):  # clients may go away at any time
            self.errors.append(error)


class _Handler(FileHandler):
    routes = ROUTES

    def _create(self) -> None:
        request = json.loads(self.body)
        kind, owner = self._owner(request)
        repo_id = f"{owner}/{request['name']}"
        address = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        with self.hub.lock:
            if (kind, repo_id) in self.hub.repositories:
                raise_or_url = {"error": f"You already created this {kind} repo", "url": address}
                return self._json(raise_or_url, status=409)
            private = request.get("visibility") == "private"
            self.hub.repositories[kind, repo_id] = Repository(owner=owner, private=private)
        self._json({"url": address, "name": repo_id, "id": repo_id})

    def _delete(self) -> None:
        request = json.loads(self.body)
        kind, owner = self._owner(request)
        self._repository(kind, f"{owner}/{request['name']}", write=True)
        del self.hub.repositories[kind, f"{owner}/{request['name']}"]
        self._json({})

    def _owner(self, request: dict[str, Any]) -> tuple[str, str]:
        """Kind and namespace that a request to create or delete names, if the account may."""
        if self.account is None:
            raise Refusal(401, "Invalid username or password.")
        kind, owner = request.get("type") or "model", request.get("organization") or self.account.name
        if owner != self.account.name or self.account.role != "write":
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        return kind, owner

    def _settings(self, kind: str, repo_id: str) -> None:
        repository = self._repository(kind, repo_id, write=True)
        repository.private = json.loads(self.body)["visibility"] == "private"
        self._json({"private": repository.private})

    def _info(self, kind: str, repo_id: str, revision: str | None) -> None:
        repository = self._repository(kind, repo_id)
        sha = repository.find(revision or "main")
        entries = [repository.entry(path, content) for path, content in sorted(repository.commits[sha].items())]
        siblings: list[dict[str, Any]] = [{"rfilename": entry["path"]} for entry in entries]
        if "blobs" in self.query:
            for sibling, entry in zip(siblings, entries, strict=True):
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        owner, private = repository.owner, repository.private
        facts = {"id": repo_id, "author": owner, "sha": sha, "siblings": siblings, "private": private, "tags": []}
        self._json({**facts, "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    def _refs(self, kind: str, repo_id: str) -> None:
        repository = self._repository(kind, repo_id)

        def entries(prefix: str, references: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": k, "ref": f"{prefix}/{k}", "targetCommit": sha} for k, sha in references.items()]

        branches, tags = entries("refs/heads", repository.branches), entries("refs/tags", repository.tags)
        self._json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def _commits(self, kind: str, repo_id: str, revision: str) -> None:
        repository = self._repository(kind, repo_id)
        common = {"message": "", "authors": [{"user": repository.owner}], "date": "2026-01-01T00:00:00.000Z"}
        titles = [{"id": sha, "title": repository.titles[sha]} for sha in repository.history(revision)]
        self._page([{**common, **each} for each in titles])

    def _reference(self, method: str, kind: str, repo_id: str, what: str, name: str) -> None:
        repository = self._repository(kind, repo_id, write=True)
        request = json.loads(self.body or b"{}")
        references = repository.tags if what == "tag" else repository.branches
        if method == "DELETE":
            if name not in references or name == "main":
                raise Refusal(404, f"Reference does not exist: {name}", "RevisionNotFound")
            del references[name]
        else:
            new, source = (request["tag"], name) if what == "tag" else (name, request.get("startingPoint", "main"))
            if new in references:
                raise Refusal(409, f"Reference already exists: {new}")
            references[new] = repository.find(source)
        self._json({})

    def _tree(self, kind: str, repo_id: str, revision: str, folder: str | None) -> None:
        repository = self._repository(kind, repo_id)
        files = repository.commits[repository.find(revision)]
        start = f"{folder}/" if folder else ""
        inside = [path for path in files if path.startswith(start)]
        if folder and not inside:
            raise Refusal(404, f'{folder} does not exist on "{revision}"', "EntryNotFound")
        folders = {
            f"{start}{'/'.join(parts[:depth])}"
            for path in inside
            for parts in [path[len(start) :].split("/")]
            for depth in range(1, len(parts))
        }
        paths = sorted({*inside, *folders})
        if self.query.get("recursive", "").lower() != "true":
            paths = [path for path in paths if "/" not in path[len(start) :]]
        self._page([self._entry(repository, files, path) for path in paths])

    def _paths_info(self, kind: str, repo_id: str, revision: str) -> None:
        repository = self._repository(kind, repo_id)
        files = repository.commits[repository.find(revision)]
        if "json" in self.headers.get("Content-Type", ""):  # clients send JSON or a form
            wanted = json.loads(self.body)["paths"]
        else:
            wanted = parse_qs(self.body.decode()).get("paths", [])
        known = set(files) | {path[:at] for path in files for at, sign in enumerate(path) if sign == "/"}
        self._json([self._entry(repository, files, path) for path in wanted if path in known])

    def _entry(self, repository: Repository, files: Files, path: str) -> dict[str, Any]:
        if path in files:
            return repository.entry(path, files[path])
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}

    def _page(self, entries: list[dict[str, Any]]) -> None:
        start = int(self.query.get("cursor", 0))
        headers, end = {}, start + self.hub.page_size
        if end < len(entries):
            rest = "&".join(f"{name}={value}" for name, value in self.query.items() if name != "cursor")
            headers["Link"] = f'<{self.hub.url}{urlsplit(self.path).path}?{rest}&cursor={end}>; rel="next"'
        self._json(entries[start:end], headers=headers)
