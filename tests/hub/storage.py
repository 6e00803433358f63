"""What the Hub of the tests keeps: accounts, and repositories as commits of whole files."""

import hashlib
import re
from dataclasses import dataclass, field

Files = dict[str, bytes]
LARGE_SUFFIXES = (".safetensors", ".parquet", ".tar", ".mp4", ".gif", ".bin")
LARGE_SIZE = 10 * 2**20
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


@dataclass(frozen=True)
class Account:
    """Who a token stands for, and what it may: `role` is `"write"` or `"read"`."""

    name: str
    role: str = "write"
    expired: bool = False


class Refusal(Exception):
    """An answer other than success: status, message, and the Hub's code for it if it has one."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass
class Repository:
    """Commits by their hash, and where the branches and tags point."""

    owner: str = "tester"
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)  # SHA-256 of what was committed as a large file

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": GITATTRIBUTES}, "initial commit")

    def commit(self, branch: str, files: Files, title: str = "") -> str:
        parent = self.branches.get(branch)
        content = "".join(f"{path} {git_hash(files[path])}\n" for path in sorted(files))
        sha = hashlib.sha1(f"{parent} {len(self.commits)} {title}\n{content}".encode()).hexdigest()
        self.commits[sha], self.parents[sha], self.titles[sha] = files, parent, title
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str:
        """The commit that a branch, a tag or a hash means."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def history(self, revision: str) -> list[str]:
        """The commits behind a revision, the newest first."""
        found: list[str] = []
        sha: str | None = self.find(revision)
        while sha is not None:
            found.append(sha)
            sha = self.parents[sha]
        return found

    def entry(self, path: str, content: bytes) -> dict[str, object]:
        """A file as listings show it: of a large one, git has but a pointer."""
        sha256 = hashlib.sha256(content).hexdigest()
        common = {"type": "file", "path": path, "size": len(content)}
        if sha256 not in self.large:
            return {**common, "oid": git_hash(content)}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        lfs = {"oid": sha256, "size": len(content), "pointerSize": len(pointer)}
        return {**common, "oid": git_hash(pointer), "lfs": lfs}


def git_hash(content: bytes) -> str:
    """The hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int, sample: bytes) -> bool:
    """Whether a file has to be a large one: by its name, its size, or because it is binary."""
    return path.endswith(LARGE_SUFFIXES) or size > LARGE_SIZE or b"\0" in sample


def check_path(path: str) -> None:
    """Refuses paths that lead out of the repository."""
    if not re.fullmatch(r"[^/\0]+(/[^/\0]+)*", path) or {".", "..", ".git"} & set(path.split("/")):
        raise Refusal(400, f"Invalid path: {path}")
