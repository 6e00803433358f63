"""A stand-in for the Hugging Face Hub on 127.0.0.1: the part of its protocol that push, pull and streaming use.

Repositories live in memory, as commits of whole files. Clients are other processes, started with
[`HubServer.environment`], because `huggingface_hub` reads its address when it is imported.
"""

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
TOKEN = "hf_loopback"
KINDS = {"models": "model", "datasets": "dataset"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".tar", ".mp4", ".gif")


class Repository:
    """Commits by their hash, and where the branches and tags point."""

    def __init__(self) -> None:
        self.commits: dict[str, Files] = {}
        self.refs: dict[str, str] = {}
        self.tags: set[str] = set()
        self.commit("main", {})

    def commit(self, branch: str, files: Files) -> str:
        sha = hashlib.sha1(f"{branch} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha


class HubServer:
    """
    The server, as a context manager.

    Attributes:
        url: Its address.
        repositories: [`Repository`] by kind (`"model"` or `"dataset"`) and id.
        requests: Method and path of every request so far.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: Files = {}  # large files by their SHA-256
        self.requests: list[str] = []
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: os.PathLike[str], *, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a client: this server, `home` for its caches, and a token to write with."""
        offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE")
        environment = {name: value for name, value in os.environ.items() if name not in offline}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": f"{os.fspath(home)}/modules",
        }
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return environment | ({} if token is None else {"HF_TOKEN": token})

    def files(self, repo_id: str, *, kind: str = "model", revision: str = "main") -> Files:
        """What a repository holds: content by path."""
        repository = self.repositories[kind, repo_id]
        return repository.commits[repository.refs.get(revision, revision)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        body = self._body()
        if self.command in ("POST", "PUT", "DELETE") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            if not path.endswith("/paths-info/main") and "/lfs/" not in path:
                return self._json({"error": "Invalid username or password."}, status=401)
        if path == "/api/whoami-v2":
            return self._json(
                {"name": "tester", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
            )
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.startswith("/api/repos/"):
            return self._repos(path, json.loads(body))
        if path.startswith("/lfs/"):
            return self._lfs_object(path.rpartition("/")[2], body)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._lfs_batch(json.loads(body))
        if match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/(.+))?)?", path):
            kind, repo_id, action, rest = match.groups()
            return self._api(KINDS[kind], repo_id, action or "revision", rest or "main", body)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path):
            return self._resolve("dataset" if match[1] else "model", match[2], match[3], match[4])
        return self._missing("EntryNotFound")

    def _repos(self, path: str, request: dict[str, Any]) -> None:
        kind, name = request.get("type") or "model", request["name"]
        repo_id = name if "/" in name else f"{request.get('organization') or 'tester'}/{name}"
        address = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
        if path.endswith("/delete"):
            del self.hub.repositories[kind, repo_id]
        elif (kind, repo_id) in self.hub.repositories:
            return self._json({"error": "You already created this repo", "url": address}, status=409)
        else:
            self.hub.repositories[kind, repo_id] = Repository()
        return self._json({"url": address, "name": repo_id, "id": repo_id})

    def _api(self, kind: str, repo_id: str, action: str, rest: str, body: bytes) -> None:
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None:
            return self._missing("RepoNotFound")
        if action == "refs":
            entries = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in repository.refs.items()]
            tags = [entry for entry in entries if entry["name"] in repository.tags]
            branches = [entry for entry in entries if entry["name"] not in repository.tags]
            return self._json({"branches": branches, "tags": tags, "converts": []})
        if action == "preupload":
            modes = [(each["path"], each["path"].endswith(LFS_SUFFIXES)) for each in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "lfs" if lfs else "regular"} for path, lfs in modes]
            return self._json({"files": [{**each, "shouldIgnore": False, "oid": None} for each in files]})
        if action == "commit":
            prefix = "datasets/" if kind == "dataset" else ""
            return self._commit(repository, f"{self.hub.url}/{prefix}{repo_id}", rest, body)
        if action in ("branch", "tag"):
            name = json.loads(body)["tag"] if action == "tag" else rest
            source = rest if action == "tag" else json.loads(body or b"{}").get("startingPoint", "main")
            repository.refs[name] = repository.refs.get(source, source)
            repository.tags |= {name} if action == "tag" else set()
            return self._json({})

        revision, _, folder = rest.partition("/") if not rest.startswith("refs/") else (rest, "", "")
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            return self._missing("RevisionNotFound")
        files = repository.commits[sha]
        if action == "revision":
            siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
            entry = {"id": repo_id, "sha": sha, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            return self._json({**entry, "likes": 0, "gated": False, "disabled": False})
        if action == "tree":
            inside = {path for path in files if path.startswith(f"{folder}/" if folder else "")}
            if folder and not inside:
                return self._missing("EntryNotFound")
            if "recursive=True" not in self.path and "recursive=true" not in self.path:
                depth = len(folder) + 1 if folder else 0
                inside = {path[:depth] + path[depth:].partition("/")[0] for path in inside}
            return self._json([self._entry(path, files) for path in sorted(inside)])
        if action == "paths-info":
            wanted = self._form(body)
            known = set(files) | {path.rpartition("/")[0] for path in files} - {""}
            return self._json([self._entry(path, files) for path in wanted if path in known])
        return self._missing("EntryNotFound")

    def _commit(self, repository: Repository, address: str, branch: str, body: bytes) -> None:
        files = dict(repository.commits[repository.refs[branch]])
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "deletedFolder":
                files = {path: files[path] for path in files if not path.startswith(value["path"])}
        sha = repository.commit(branch, files)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{address}/commit/{sha}", "pullRequestUrl": None})

    def _lfs_batch(self, request: dict[str, Any]) -> None:
        objects = []
        for each in request["objects"]:
            target = {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}
            known = each["oid"] in self.hub.objects
            upload = {"upload": target, "verify": {"href": f"{self.hub.url}/lfs/verify", "header": {}}}
            actions = {} if known else {"actions": upload}
            objects.append({"oid": each["oid"], "size": each["size"], "authenticated": True, **actions})
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_object(self, oid: str, body: bytes) -> None:
        if self.command == "PUT":
            self.hub.objects[hashlib.sha256(body).hexdigest()] = body
        self._json({})

    def _resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get((kind, repo_id))
        if repository is None:
            return self._missing("RepoNotFound")
        sha = repository.refs.get(revision, revision)
        if sha not in repository.commits:
            return self._missing("RevisionNotFound")
        if path not in repository.commits[sha]:
            return self._missing("EntryNotFound", {"X-Repo-Commit": sha})
        content = repository.commits[sha][path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self._send(content[start : end + 1], 206, "application/octet-stream", headers)
        return self._send(content, 200, "application/octet-stream", headers)

    def _entry(self, path: str, files: Files) -> dict[str, Any]:
        if path not in files:
            return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        content = files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if path.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _form(self, body: bytes) -> list[str]:
        """The paths of a `paths-info` request, which clients send as JSON or as a form."""
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(body)["paths"]
        return [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _missing(self, code: str, headers: dict[str, str] | None = None) -> None:
        self._json({"error": code}, status=404, headers={"X-Error-Code": code, **(headers or {})})

    def _json(self, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, "application/json", headers or {})

    def _send(self, content: bytes, status: int, content_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
