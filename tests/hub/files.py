"""Files on their way to the Hub of the tests, and from it."""

import base64
import hashlib
import json
import re
from typing import Any

import yaml

from .handler import Handler
from .storage import Files, Refusal, check_path, is_large


class FileHandler(Handler):
    """Upload, commit, download."""

    def _validate_card(self) -> None:
        match = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        try:
            yaml.safe_load(match[1] if match else "")
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": f"YAML: {error}"}], "warnings": []}, status=400)
        self._json({"errors": [], "warnings": []})

    def _preupload(self, kind: str, repo_id: str, revision: str) -> None:
        repository = self._repository(kind, repo_id, write=True)
        files = repository.commits[repository.find(revision)]
        answers = []
        for each in json.loads(self.body)["files"]:
            path = each["path"]
            large = is_large(path, each["size"], base64.b64decode(each["sample"]))
            entry: dict[str, Any] = repository.entry(path, files[path]) if path in files else {"oid": None}
            oid = entry.get("lfs", entry)["oid"]
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _batch(self, kind: str | None, repo_id: str) -> None:
        self._repository(kind, repo_id, write=True)
        objects, transfer = [], "basic"
        for each in json.loads(self.body)["objects"]:
            oid, size = each["oid"], each["size"]
            target, sign = f"{self.hub.storage_url}/lfs/{oid}", f"?signature={self.hub.signature(oid)}"
            upload: dict[str, Any] = {"href": target + sign, "header": {}}
            if size > self.hub.part_size:
                transfer, count = "multipart", -(-size // self.hub.part_size)
                addresses = {str(part): f"{target}/{part}{sign}" for part in range(1, count + 1)}
                upload = {
                    "href": f"{target}/complete{sign}",
                    "header": {**addresses, "chunk_size": str(self.hub.part_size)},
                }
            actions = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify", "header": {}}}
            known = oid in self.hub.objects
            objects.append({"oid": oid, "size": size, "authenticated": True} | ({} if known else {"actions": actions}))
        self._json({"transfer": transfer, "objects": objects})

    def _upload(self, oid: str, part: str | None) -> None:
        self._check_signature(oid)
        if part is None:
            self._store(oid, self.body)
        else:
            self.hub.parts.setdefault(oid, {})[part] = self.body
        self._send(b"", 200, "text/plain", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def _complete(self, oid: str) -> None:
        self._check_signature(oid)
        parts = self.hub.parts.get(oid, {})
        content = b""
        for each in json.loads(self.body)["parts"]:
            part = parts.get(str(each["partNumber"]))
            if part is None or each["etag"].strip('"') != hashlib.md5(part).hexdigest():
                raise Refusal(400, f"Part {each['partNumber']} is missing or another one")
            content += part
        self._store(oid, content)
        self.hub.parts.pop(oid, None)
        self._json({"success": True})

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise Refusal(400, "The SHA-256 of the content is not the one announced")
        self.hub.objects[oid] = content

    def _check_signature(self, oid: str) -> None:
        if self.query.get("signature") != self.hub.signature(oid):
            raise Refusal(403, "SignatureDoesNotMatch")

    def _verify(self) -> None:
        request = json.loads(self.body)
        if len(self.hub.objects.get(request["oid"], b"")) != request["size"]:
            raise Refusal(404, "Object not found")
        self._json({})

    def _commit(self, kind: str, repo_id: str, revision: str) -> None:
        repository = self._repository(kind, repo_id, write=True)
        if "create_pr" in self.query:
            raise Refusal(501, "pull requests are not part of this Hub")
        if revision not in repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        operations = [json.loads(line) for line in self.body.splitlines()]
        header = operations[0]["value"]
        with self.hub.lock:
            head = repository.branches[revision]
            if header.get("parentCommit", head) != head:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[head])
            large = set(repository.large)
            for operation in operations[1:]:
                self._operate(operation["key"], operation["value"], files, large)
            repository.large = large
            sha = repository.commit(revision, files, header["summary"])
        address = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": address, "pullRequestUrl": None})

    def _operate(self, key: str, value: dict[str, Any], files: Files, large: set[str]) -> None:
        path = value["path"].rstrip("/")
        check_path(path)
        if key == "file":
            content = base64.b64decode(value["content"])
            if is_large(path, len(content), content[:512]) and content:
                raise Refusal(400, "Your push was rejected because it contains binary files")
            files[path] = content
        elif key == "lfsFile":
            stored = self.hub.objects.get(value["oid"])
            if stored is None or value.get("size", len(stored)) != len(stored):
                raise Refusal(
                    400, "Your push was rejected because an LFS pointer pointed to a file that does not exist"
                )
            files[path] = stored
            large.add(value["oid"])
        else:
            gone = [each for each in files if each == path or (key == "deletedFolder" and each.startswith(f"{path}/"))]
            if not gone:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            for each in gone:
                del files[each]

    def _resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(kind, repo_id)
        sha = repository.find(revision)
        content = repository.commits[sha].get(path)
        if content is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        entry: dict[str, Any] = repository.entry(path, content)
        headers = {"X-Repo-Commit": sha}
        if "lfs" not in entry:
            return self._content(content, {**headers, "ETag": f'"{entry["oid"]}"'})
        oid = entry["lfs"]["oid"]
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        headers["Location"] = f"{self.hub.storage_url}/cdn/{oid}?signature={self.hub.signature(oid)}"
        self._send(b"", 302, "text/plain", headers)

    def _download(self, oid: str) -> None:
        self._check_signature(oid)
        self._content(self.hub.objects[oid], {"ETag": f'"{hashlib.md5(self.hub.objects[oid]).hexdigest()}"'})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        headers["Accept-Ranges"] = "bytes"
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return self._send(content, 200, "application/octet-stream", headers)
        start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        if start >= len(content):
            raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(content[start : end + 1], 206, "application/octet-stream", headers)
