"""Code, recipe and hardware of a training, for report and card.

Guarantees: unknown facts are left out; the machine's name, users and paths are never told.
"""

import json
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..versions import stack_versions

# Options of no use for training the same model again.
NOT_OF_THE_RECIPE = (
    *("recipe", "preset", "feature_cache", "feature_cache_limit", "push_to_hub"),
    *("report_to", "project", "disable_tqdm"),
)


def run_facts(given: Collection[str], arguments: Mapping[str, Any], *, processes: int = 1) -> dict[str, Any]:
    """Recipe, versions, hardware and, if it is known, the commit of the code.

    Args:
        given: Names of the options that were given, in a recipe or on the command line.
        arguments: Values of all options, without secrets and paths.
        processes: Number of processes.
    """
    recipe = {
        name: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
        for name in sorted(given)
        if (value := arguments.get(name)) is not None and name not in NOT_OF_THE_RECIPE and not name.startswith("hub_")
    }
    commit = code_commit()
    return {
        "recipe": recipe,
        "versions": stack_versions(),
        "hardware": hardware(processes=processes),
        **({"commit": commit} if commit else {}),
    }


def hardware(*, processes: int = 1) -> dict[str, Any]:
    """`cpu` (its model), `cpu_count` (usable by this process), `threads` (of torch, per process), `processes`, and
    `gpus` if there are any."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(Path("/proc/cpuinfo")),
        "cpu_count": usable,
        "threads": torch.get_num_threads(),
        "processes": processes,
        **({"gpus": gpus} if gpus else {}),
    }


def _cpu_name(cpuinfo: Path) -> str:
    """The CPU model on Linux; elsewhere what Python knows, at least the architecture."""
    if cpuinfo.is_file():
        fields = (line.partition(":") for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines())
        for name, _, value in fields:
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def code_commit(package: Path = Path(__file__).parent, *, distribution: str = "vidcap") -> str | None:
    """Commit of this package's code, from git or from pip.

    Returns:
        The commit, followed by `, changed` if files differ from it; `None` if there is none.
    """
    root = package.resolve().parent
    if (root / ".git").exists():  # in a worktree this is a file
        try:
            commit = _git(root, "rev-parse", "HEAD")
            return f"{commit}, changed" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
        except (OSError, subprocess.SubprocessError):
            return None  # git is missing, or does not trust another user's checkout
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return None
    # https://packaging.python.org/specifications/direct-url, written by `pip install git+https://...`
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    return origin.get("vcs_info", {}).get("commit_id")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
