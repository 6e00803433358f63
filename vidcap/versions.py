"""Versions of the packages that the installed vidcap requires (setup.cfg)."""

import platform
import re
from importlib import metadata

from packaging.requirements import Requirement

from modeling_vidcap.settings_vidcap import VERSION


def requirements(distribution: str = "vidcap") -> dict[str, list[str]]:
    """Names of required packages per extra, and under `""` those that vidcap always requires.

    Returns:
        An empty dictionary if vidcap is not installed, but imported from a folder.
    """
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    needed: dict[str, list[str]] = {}
    for requirement in map(Requirement, lines):
        extra = re.search(r"extra == ['\"](.+?)['\"]", str(requirement.marker or ""))
        needed.setdefault(extra[1] if extra else "", []).append(requirement.name)
    return needed


def lowest_versions(distribution: str = "vidcap") -> dict[str, str]:
    """Lower bounds of the packages that `distribution` requires; empty if it is not installed."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return {}
    bounds = [
        (requirement.name, specifier.version)
        for requirement in map(Requirement, lines)
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]
    return dict(bounds)


def stack_versions() -> dict[str, str]:
    """Versions of Python, vidcap and every installed package that it depends on."""
    names = dict.fromkeys(name for extra, names in requirements().items() if extra != "dev" for name in names)
    installed = {name: version for name in names if (version := package_version(name)) is not None}
    return {"python": platform.python_version(), "vidcap": VERSION, **installed}


def package_version(package: str) -> str | None:
    """Installed version of a package; `None` if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
