"""A folder -> one commit of a Hub repository.

Promises: the main revision is the state before or the whole folder, wherever an upload breaks: large files are
uploaded first and change nothing, then one commit names all. What was uploaded stays on the Hub, so that the same call
again sends only what is missing. Failures that may pass are tried again a few times, others are one line.
"""

import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx2  # which huggingface_hub brings, and whose errors it lets through
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects
from transformers.utils import CONFIG_NAME

from modeling_vidcap import VideoCaptionConfig

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
LONGEST_WAIT = 120.0  # a Hub that asks for more is not waited for
PASSING = (408, 412, 425, 429, 500, 502, 503, 504)  # 412: somebody else committed in between
TOKENS = "https://huggingface.co/settings/tokens"
# What a repository may hold beforehand without being the home of something else.
BYSTANDERS = (".gitattributes", ".gitignore", "README.md", "LICENSE*")
# What loaders take by its name: left over from an earlier model, it would mix with the new one.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
LOADED = (
    *WEIGHTS,
    "*_vidcap.py",
    "*config.json",
    "*tokenizer*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.*",
)


class PushError(OSError):
    """A folder that did not reach the Hub; the message is one line with the reason and what to do."""


def upload_model(
    directory: str | os.PathLike[str],
    repo_id: str,
    patterns: Sequence[str],
    *,
    private: bool | None = None,
    token: str | None = None,
    commit: Mapping[str, Any] | None = None,
    force: bool = False,
    complete: bool = True,
    contents: Mapping[str, bytes] | None = None,
) -> str:
    """
    Uploads files of a folder as one commit.

    A repository that holds an earlier video captioner gets the new one on top of its history: files of the old model
    that loaders would take are removed by the same commit, everything else stays.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        patterns (`Sequence[str]`): which files, by their paths in the folder; checkpoints and hidden ones never.
        private (`bool`, *optional*): visibility of a new repository; by default what the account's settings say.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`.
        commit (`Mapping`, *optional*): options of `HfApi.create_commit`: `revision` (a branch, made where needed),
            `create_pr`, `commit_message`, `commit_description`.
        force (`bool`, *optional*): put the model also into a repository that holds something else.
        complete (`bool`, *optional*): the folder is a whole model. Of a part, only its weights replace others.
        contents (`Mapping`, *optional*): what to upload in place of what a file of the folder holds, by its path.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ValueError`: if the repository's name, or the metadata of the folder's card, is not a valid one.
        `PushError`: if there is no token or no connection, if the Hub refuses, or if the repository holds something
            else or is public where a private one was asked for.
    """
    if token is None and get_token() is None:
        raise PushError(f"no token for the Hub: make one that may write ({TOKENS}), then `hf auth login` or HF_TOKEN")
    api = HfApi(token=token)
    commit = {"commit_message": "Upload a video captioner", **(commit or {})}
    # The same pull request asked for twice is two.
    waits = () if commit.get("create_pr") else WAITS
    for attempt in itertools.count():
        try:
            return _upload(api, Path(directory), repo_id, patterns, private, commit, force, complete, contents or {})
        except PushError:
            raise
        except (OSError, RuntimeError, httpx2.HTTPError) as error:
            cause = _cause(error)
            if cause is None:
                raise
            wait = _wait(cause, waits[attempt : attempt + 1])
            if wait is None:
                raise PushError(_reason(cause, repo_id, api.endpoint)) from error
            problem = f"{type(cause).__name__}: {cause}".splitlines()[0]
            logger.warning(f"{repo_id}: {problem}; attempt {attempt + 2} of {len(waits) + 1} in {wait:g} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _upload(
    api: HfApi,
    directory: Path,
    repo_id: str,
    patterns: Sequence[str],
    private: bool | None,
    commit: Mapping[str, Any],
    force: bool,
    complete: bool,
    contents: Mapping[str, bytes],
) -> str:
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    revision = commit.get("revision")
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(url.repo_id, branch=revision, exist_ok=True)
    info = api.model_info(url.repo_id, revision=revision)
    held = {sibling.rfilename for sibling in info.siblings or ()}
    if private and not info.private:
        raise PushError(f"{repo_id} exists and is public: make it private in its settings, or push without private")
    if not force:
        _check_content(api, url.repo_id, str(info.sha), held)
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    ignored = ["checkpoint-*/*", ".*"]
    names = list(filter_repo_objects(files, allow_patterns=list(patterns), ignore_patterns=ignored))
    replaced = LOADED if complete else WEIGHTS if CONFIG_NAME in names else ()
    leftover = sorted(name for name in held - set(names) if "/" not in name and _any(name, replaced))
    # Not `upload_folder`: where hf_xet is installed, it splits what takes long into several commits.
    api.create_commit(
        url.repo_id,
        operations=[
            *(CommitOperationAdd(name, contents.get(name, directory / name)) for name in names),
            *(CommitOperationDelete(name) for name in leftover),
        ],
        parent_commit=info.sha,
        **commit,
    )
    return str(url)


def _check_content(api: HfApi, repo_id: str, revision: str, held: set[str]) -> None:
    """Raises PushError if a repository is the home of something other than a video captioner."""
    foreign = sorted(name for name in held if not _any(name, BYSTANDERS))
    if not foreign:
        return
    what = foreign[0]
    if CONFIG_NAME in held:
        path = api.hf_hub_download(repo_id, CONFIG_NAME, revision=revision)
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            config = None
        found = config.get("model_type") if isinstance(config, dict) else None
        if found == VideoCaptionConfig.model_type:
            return
        what = f"a model of the type {found}"
    raise PushError(f"{repo_id} holds something else ({what}): choose another name, or replace it by force (--force)")


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _cause(error: BaseException | None) -> Exception | None:
    """The answer of the Hub, or the failure of the connection, behind an error of its client."""
    while error is not None:
        if isinstance(error, (HfHubHTTPError, httpx2.TransportError, ConnectionError, TimeoutError)):
            return error
        error = error.__cause__
    return None


def _wait(cause: Exception, planned: Sequence[float]) -> float | None:
    """Seconds until the next attempt, `planned` or what the Hub asks for, or None if there is to be none."""
    if not planned or isinstance(cause, OfflineModeIsEnabled):
        return None
    if not isinstance(cause, HfHubHTTPError):
        return planned[0]
    if cause.response.status_code not in PASSING:
        return None
    asked = cause.response.headers.get("Retry-After", "")
    wait = max(planned[0], float(asked) if asked.isdigit() else 0.0)
    return wait if wait <= LONGEST_WAIT else None


def _reason(cause: Exception, repo_id: str, endpoint: str) -> str:
    """What to tell the user, in one line."""
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{repo_id} was not pushed: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it and push again"
    again = "the last revision is whole, and a push of the same folder sends only what is missing"
    if not isinstance(cause, HfHubHTTPError):
        reason = " ".join(str(cause).split()) or type(cause).__name__
        return f"{repo_id} was not pushed: no connection to {endpoint} ({reason}); {again}"
    status = cause.response.status_code
    said = " ".join((cause.server_message or cause.response.reason_phrase).split()).rstrip(".")
    refused = f"the Hub refused {repo_id}: {status}, {said}"
    if status == 401:
        return f"{refused}; make a new token that may write ({TOKENS}), then `hf auth login` or HF_TOKEN"
    if status == 403:
        return f"{refused}; take a token with the role write, or a name in a namespace that is yours"
    if status == 404:
        return f"{refused}; the token may not see it, or it was deleted in between"
    if status == 429:
        asked = cause.response.headers.get("Retry-After")
        return f"{refused}; push again {f'in {asked} s' if asked else 'later'}: {again}"
    return f"{refused}; {again}" if status in PASSING else refused
