"""An exported folder -> one commit of a Hub repository.

Promises: the main revision is the state before or the whole folder, wherever an upload breaks: large files are
uploaded first and change nothing, then one commit names all. What was uploaded stays on the Hub, so that the same call
again sends only what is missing. Failures that may pass are tried again a few times, others are one line.
"""

import itertools
import json
import logging
import os
import time
from fnmatch import fnmatch
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects
from transformers.utils import CONFIG_NAME

from modeling_vidcap import VideoCaptionConfig

from .exporter import UPLOADED, _exported

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
LONGEST_WAIT = 120.0  # a Hub that asks for more is not waited for
PASSING = (408, 412, 425, 429, 500, 502, 503, 504)  # 412: somebody else committed in between
TOKENS = "https://huggingface.co/settings/tokens"
# What a repository may hold beforehand without being the home of something else.
BYSTANDERS = (".gitattributes", ".gitignore", "README.md", "LICENSE*")
# What loaders take by its name: left over from an earlier model, it would mix with the new one.
LOADED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*_vidcap.py",
    "*config.json",
    "*tokenizer*",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.*",
)


class PushError(OSError):
    """A folder that did not reach the Hub; the message is one line with the reason and what to do."""


def push_to_hub(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a video captioner",
    force: bool = False,
) -> str:
    """
    Uploads an exported folder as one commit; checkpoints and pickles that may lie in it stay behind.

    A repository that holds an earlier video captioner gets the new one on top of its history: files of the old model
    that loaders would take are removed by the same commit, everything else stays.

    Args:
        directory (`str` or `os.PathLike`): the folder.
        repo_id (`str`): `user/name`, created where needed.
        private (`bool`, *optional*): visibility of a new repository; by default what the account's settings say.
        token (`str`, *optional*): by default the one of `hf auth login` or `HF_TOKEN`.
        commit_message (`str`, *optional*): title of the commit.
        force (`bool`, *optional*): put the model also into a repository that holds something else.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if the folder is not an exported one.
        `ValueError`: if the repository's name, or the metadata of the folder's card, is not a valid one.
        `PushError`: if there is no token or no connection, if the Hub refuses, or if the repository holds something
            else or is public where a private one was asked for.
    """
    directory = _exported(directory)
    if token is None and get_token() is None:
        raise PushError(f"no token for the Hub: make one that may write ({TOKENS}), then `hf auth login` or HF_TOKEN")
    api = HfApi(token=token)
    for attempt in itertools.count(1):
        try:
            return _push(api, directory, repo_id, private, commit_message, force)
        except PushError:
            raise
        except (OSError, RuntimeError, httpx2.HTTPError) as error:
            cause = _cause(error)
            if cause is None:
                raise
            wait = _wait(cause, attempt)
            if wait is None:
                raise PushError(_reason(cause, repo_id, api.endpoint)) from error
            problem = f"{type(cause).__name__}: {cause}".splitlines()[0]
            logger.warning(f"{repo_id}: {problem}; attempt {attempt + 1} of {len(WAITS) + 1} in {wait:g} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _push(api: HfApi, directory: Path, repo_id: str, private: bool | None, message: str, force: bool) -> str:
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    info = api.model_info(url.repo_id)
    held = {sibling.rfilename for sibling in info.siblings or ()}
    if private and not info.private:
        raise PushError(f"{repo_id} exists and is public: make it private in its settings, or push without private")
    if not force:
        _check_content(api, url.repo_id, str(info.sha), held)
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    names = list(filter_repo_objects(files, allow_patterns=list(UPLOADED), ignore_patterns=["checkpoint-*", ".*"]))
    leftover = sorted(name for name in held - set(names) if "/" not in name and _any(name, LOADED))
    # Not `upload_folder`: where hf_xet is installed, it splits what takes long into several commits.
    api.create_commit(
        url.repo_id,
        operations=[
            *(CommitOperationAdd(name, directory / name) for name in names),
            *(CommitOperationDelete(name) for name in leftover),
        ],
        commit_message=message,
        parent_commit=info.sha,
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


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _cause(error: BaseException | None) -> Exception | None:
    """The answer of the Hub, or the failure of the connection, behind an error of its client."""
    while error is not None:
        if isinstance(error, (HfHubHTTPError, httpx2.TransportError, ConnectionError, TimeoutError)):
            return error
        error = error.__cause__
    return None


def _wait(cause: Exception, attempt: int) -> float | None:
    """Seconds until the next attempt, or None if there is to be none."""
    if attempt > len(WAITS) or isinstance(cause, OfflineModeIsEnabled):
        return None
    if not isinstance(cause, HfHubHTTPError):
        return WAITS[attempt - 1]
    if cause.response.status_code not in PASSING:
        return None
    asked = cause.response.headers.get("Retry-After", "")
    wait = max(WAITS[attempt - 1], float(asked) if asked.isdigit() else 0.0)
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
