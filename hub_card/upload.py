"""A folder -> one commit of a Hub repository.

Guarantees: wherever an upload breaks, the main revision is either the old state or the whole folder: large files are
uploaded first and change nothing, then one commit names all. Uploaded files stay on the Hub, so that the same call
again sends only the rest. Temporary failures are tried again a few times; others are reported in one line.
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

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects
from transformers.utils import CONFIG_NAME

from modeling_vidcap import VideoCaptionConfig

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
LONGEST_WAIT = 120.0  # seconds; the push ends if the Hub asks for more
TEMPORARY = (408, 412, 425, 429, 500, 502, 503, 504)  # 412: somebody else committed meanwhile
TOKENS = "https://huggingface.co/settings/tokens"
LOG_IN = "run `hf auth login` or set HF_TOKEN"
# Files that a repository may hold before it holds a model.
BYSTANDERS = (".gitattributes", ".gitignore", "README.md", "LICENSE*")
# Files that loaders find by name: leftovers of an earlier model would mix with the new one.
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
    """A folder that did not reach the Hub; the message is one line with the reason and the next step."""


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
    Upload files of a folder as one commit.

    A repository with an earlier video captioner gets the new one on top of its history: the same commit removes files
    of the old model that loaders would find; all others stay.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        patterns (`Sequence[str]`): paths of the files in the folder; checkpoints and hidden files are never uploaded.
        private (`bool`, *optional*): visibility of a new repository; by default that of the account's settings.
        token (`str`, *optional*): by default that of `hf auth login` or `HF_TOKEN`.
        commit (`Mapping`, *optional*): options of `HfApi.create_commit`: `revision` (a branch, created where needed),
            `create_pr`, `commit_message`, `commit_description`.
        force (`bool`, defaults to `False`): replace the content of a repository that holds something else.
        complete (`bool`, defaults to `True`): the folder is a whole model; a part replaces weights only.
        contents (`Mapping`, *optional*): by path, the content to upload in place of that of a file.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ValueError`: if the repository's name or the metadata of the folder's card is invalid.
        `PushError`: if there is no token or no connection, if the Hub refuses, or if the repository holds something
            else, or is public although `private` was given.
    """
    if token is None and get_token() is None:
        raise PushError(f"no token for the Hub; create one that may write ({TOKENS}), then {LOG_IN}")
    api = HfApi(token=token)
    commit = {"commit_message": "Upload a video captioner", **(commit or {})}
    # A second attempt could open a second pull request.
    waits = () if commit.get("create_pr") else WAITS
    for attempt in itertools.count():
        try:
            return _upload(api, Path(directory), repo_id, patterns, private, commit, force, complete, contents or {})
        except PushError:
            raise
        except (OSError, RuntimeError, HTTPError) as error:
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
        raise PushError(f"{repo_id} is public; make it private in its settings, or push without private=True")
    if not force:
        _check_content(api, url.repo_id, str(info.sha), held)
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    ignored = ["checkpoint-*/*", ".*"]
    names = list(filter_repo_objects(files, allow_patterns=list(patterns), ignore_patterns=ignored))
    replaced = LOADED if complete else WEIGHTS if CONFIG_NAME in names else ()
    leftover = sorted(name for name in held - set(names) if "/" not in name and _any(name, replaced))
    # Not `upload_folder`: with hf_xet, it splits long uploads into several commits.
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
    """Raise PushError if a repository holds something other than a video captioner."""
    foreign = sorted(name for name in held if not _any(name, BYSTANDERS))
    if not foreign:
        return
    content = foreign[0]
    if CONFIG_NAME in held:
        path = api.hf_hub_download(repo_id, CONFIG_NAME, revision=revision)
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            config = None
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if model_type == VideoCaptionConfig.model_type:
            return
        content = f"a model of type {model_type}"
    raise PushError(f"{repo_id} holds something else ({content}); choose another name, or replace it by force=True")


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _cause(error: BaseException | None) -> Exception | None:
    """The answer of the Hub, or the failure of the connection, behind an error of its client."""
    while error is not None:
        if isinstance(error, (HTTPError, ConnectionError, TimeoutError)):
            return error
        error = error.__cause__
    return None


def _wait(cause: Exception, planned: Sequence[float]) -> float | None:
    """Seconds to the next attempt, as `planned` or as the Hub asks; None for no further attempt."""
    if not planned or isinstance(cause, OfflineModeIsEnabled):
        return None
    if not isinstance(cause, HfHubHTTPError):
        return planned[0]
    if cause.response.status_code not in TEMPORARY:
        return None
    asked = cause.response.headers.get("Retry-After", "")
    wait = max(planned[0], float(asked) if asked.isdigit() else 0.0)
    return wait if wait <= LONGEST_WAIT else None


def _reason(cause: Exception, repo_id: str, endpoint: str) -> str:
    """The reason and the next step, in one line."""
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{repo_id} was not pushed: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it and push again"
    again = "the last revision is intact, and pushing the same folder again sends only the rest"
    if not isinstance(cause, HfHubHTTPError):
        reason = " ".join(str(cause).split()) or type(cause).__name__
        return f"{repo_id} was not pushed: no connection to {endpoint} ({reason}); {again}"
    status = cause.response.status_code
    reason = " ".join((cause.server_message or cause.response.reason_phrase).split()).rstrip(".")
    refused = f"the Hub refused {repo_id}: {status}, {reason}"
    if status == 401:
        return f"{refused}; create a new token that may write ({TOKENS}), then {LOG_IN}"
    if status == 403:
        return f"{refused}; use a token with the role write, and a name in a namespace of yours"
    if status == 404:
        return f"{refused}; the token may not see it, or it was deleted meanwhile"
    if status == 429:
        asked = cause.response.headers.get("Retry-After")
        return f"{refused}; push again {f'in {asked} s' if asked else 'later'}: {again}"
    return f"{refused}; {again}" if status in TEMPORARY else refused
