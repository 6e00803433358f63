"""`vidcap doctor`: what it finds, and that it knows the packages that the project names."""

import json
import re
from configparser import ConfigParser
from pathlib import Path

import vidcap
from vidcap.cli import main
from vidcap.commands import doctor


def test_doctor_says_what_works_and_what_is_missing(capsys, monkeypatch) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and set(found["decodes"].values()) == {"ok"}
    assert found["versions"]["vidcap"] == vidcap.__version__
    assert main(["doctor"]) == 0
    assert re.search(r"mp4 +ok", capsys.readouterr().out)

    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    monkeypatch.setitem(doctor.CONTAINERS, "gif", lambda path: path.write_bytes(b"GIF89a"))
    assert main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "pip install no-such-package" in output and "cannot decode gif" in output


def test_doctor_knows_the_packages_of_setup_cfg() -> None:
    setup = ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")

    def names(text: str) -> list[str]:
        return [re.split("[<>=]", line)[0] for line in text.split()]

    assert names(setup["options"]["install_requires"]) == list(doctor.NEEDED)
    for extra, packages in doctor.EXTRAS.items():
        assert names(setup["options.extras_require"][extra]) == list(packages)
    others = [each for each in setup["options.extras_require"] if each not in (*doctor.EXTRAS, "dev")]
    assert sorted(each for name in others for each in names(setup["options.extras_require"][name])) == sorted(
        doctor.OPTIONAL
    )
    assert setup["metadata"]["version"] == "attr: modeling_vidcap.settings_vidcap.VERSION"
