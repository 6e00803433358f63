"""The lowest versions of other packages: the same in setup.cfg, in tests/oldest.txt and in what people are told."""

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from modeling_vidcap.configuration_vidcap import OLDEST_TRANSFORMERS
from vidcap.cli import main
from vidcap.commands import doctor
from vidcap.versions import lowest_versions

ROOT = Path(__file__).parents[2]
EXTRAS = ("train", "evaluate", "lora", "onnx")  # that `make test-oldest` installs
IMPORT_UNDER = "import transformers; transformers.__version__ = '{}'; import modeling_vidcap.configuration_vidcap"


def bounds() -> dict[str, str]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in EXTRAS)]
    found: dict[str, str] = {}
    for line in "\n".join(lists).split():
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,<[\d.]+)?", line).groups()
        assert found.setdefault(name, lowest) == lowest, f"{name} has two lower bounds"
    return found


def test_the_oldest_environment_has_the_lower_bounds_of_setup_cfg() -> None:
    lines = (ROOT / "tests/oldest.txt").read_text().splitlines()
    assert dict(line.split("==") for line in lines if not line.startswith("#")) == bounds()


def test_the_exported_config_asks_for_the_transformers_of_setup_cfg() -> None:
    assert bounds()["transformers"] == OLDEST_TRANSFORMERS


@pytest.mark.parametrize(("version", "loads"), [("5.19.0", False), (f"{OLDEST_TRANSFORMERS}.0", True)])
def test_an_older_transformers_is_refused_in_one_line(version, loads) -> None:
    command = [sys.executable, "-c", IMPORT_UNDER.format(version)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (finished.returncode == 0) is loads
    if not loads:
        message = finished.stderr.strip().splitlines()[-1]
        assert message.startswith("ImportError") and OLDEST_TRANSFORMERS in message and version in message


def test_doctor_names_the_lowest_versions(capsys, monkeypatch) -> None:
    if not lowest_versions():
        pytest.skip("vidcap is not installed")
    assert main(["doctor"]) == 0
    assert re.search(rf"torch +\S+ \(needs {lowest_versions()['torch']} or later\)", capsys.readouterr().out)
    monkeypatch.setattr(doctor, "lowest_versions", lambda: {"torch": "99.0"})
    assert main(["doctor"]) == 1
    assert "pip install 'torch>=99.0'" in capsys.readouterr().out
