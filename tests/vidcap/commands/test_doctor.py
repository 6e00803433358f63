"""`vidcap doctor`: what it finds, and that it knows the packages that the project names."""

import json
import re
from configparser import ConfigParser
from pathlib import Path

import pytest

import vidcap
from vidcap.cli import main
from vidcap.commands import doctor
from vidcap.versions import requirements


def test_doctor_says_what_works(capsys) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    diagnosis = json.loads(capsys.readouterr().out)
    assert diagnosis["problems"] == [] and set(diagnosis["decodes"].values()) == {"ok"}
    assert diagnosis["versions"]["vidcap"] == vidcap.__version__
    assert main(["doctor"]) == 0
    assert re.search(r"mp4 +ok", capsys.readouterr().out)


def test_doctor_says_what_is_missing(capsys, monkeypatch) -> None:
    needed = requirements()
    more = {"": [*needed[""], "no-such-package"], "train": ["no-such-trainer"]}
    monkeypatch.setattr(doctor, "requirements", lambda: needed | more)
    monkeypatch.setitem(doctor.CONTAINERS, "gif", lambda path: path.write_bytes(b"GIF89a"))
    assert main(["doctor", "--format", "json"]) == 1
    diagnosis = json.loads(capsys.readouterr().out)
    missing, broken = diagnosis["problems"]
    assert missing.endswith("pip install no-such-package") and "gif" in broken and "mp4" not in broken
    assert diagnosis["versions"]["no-such-package"] is None
    assert [note for note in diagnosis["notes"] if "no-such-trainer" in note and "vidcap[train]" in note]


def test_doctor_says_that_vidcap_is_not_installed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "requirements", dict)
    assert main(["doctor"]) == 1
    assert "problem: vidcap is imported from a folder, but not installed" in capsys.readouterr().out


def test_requirements_are_those_of_setup_cfg() -> None:
    if not (needed := requirements()):
        pytest.skip("vidcap is not installed")
    setup = ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")
    lists = {"": setup["options"]["install_requires"], **setup["options.extras_require"]}
    expected = {extra: sorted(re.split("[<>=]", line)[0] for line in text.split()) for extra, text in lists.items()}
    installed = {extra: sorted(names) for extra, names in needed.items()}
    assert installed == expected, "setup.cfg has changed since the installation; run: pip install --editable ."
    assert setup["metadata"]["version"] == "attr: modeling_vidcap.settings_vidcap.VERSION"
