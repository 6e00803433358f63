"""Wheel and source archive hold what they should and nothing else; the installed wheel runs; the reference builds."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

import vidcap

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hub_card", "modeling_vidcap", "processing", "vidcap")
ASIDE = ("README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in", "setup.cfg", "pyproject.toml")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and source archive, built aside and without a network."""
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "recipes", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in (*ASIDE, "train_hf.py"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return source / "dist"


def sources() -> set[str]:
    """All files of the packages."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_wheel_and_source_archive_hold_what_they_should(dist: Path) -> None:
    name = f"vidcap-{vidcap.__version__}"
    wheel, archive = dist / f"{name}-py3-none-any.whl", dist / f"{name}.tar.gz"
    assert {path.name for path in dist.iterdir()} == {wheel.name, archive.name}
    expected = {*sources(), "train_hf.py"}
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected
    with zipfile.ZipFile(wheel) as file:
        names = {each for each in file.namelist() if not each.startswith(f"{name}.dist-info/")}
        metadata = file.read(f"{name}.dist-info/METADATA").decode()
        scripts = file.read(f"{name}.dist-info/entry_points.txt").decode()
    assert names == expected | {f"{name}.data/data/share/vidcap/{each}" for each in recipes} and recipes
    assert f"Version: {vidcap.__version__}\n" in metadata and "# vidcap\n" in metadata
    assert "vidcap = vidcap.cli:main" in scripts
    with tarfile.open(archive) as tar:
        inside = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    archived = {each for each in inside if not each.startswith("vidcap.egg-info/")}
    assert archived == {*expected, *recipes, *ASIDE, "PKG-INFO"}


def test_the_changelog_knows_the_version() -> None:
    heading = "Unreleased" if Version(vidcap.__version__).is_devrelease else vidcap.__version__
    assert f"\n## {heading}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_installed_wheel_runs_a_small_demo(dist: Path, tmp_path: Path) -> None:
    """In a fresh environment with the wheel alone; the packages that it needs are lent by the one of the tests."""
    venv.create(tmp_path / "env", with_pip=True)
    python, site = tmp_path / "env" / "bin" / "python", next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VIDCAP_CACHE": str(tmp_path / "cache")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(python, "-m", "pip", "install", "-q", "--no-deps", *dist.glob("*.whl"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(python, "-c", "import vidcap, train_hf, hub_card; print(vidcap.__file__, hub_card.__file__)")
    assert all(Path(path).is_relative_to(site) for path in where.split())
    command = tmp_path / "env" / "bin" / "vidcap"
    assert run(command, "--version") == f"vidcap {vidcap.__version__}\n"
    run(command, "demo-data", "clips", *"--train 12 --validation 4 --test 4 --size 32".split())
    options = (
        "--recipe demo --dataset clips --output_dir model --max_steps 2 --backbone cnn --image_size 32 "
        "--num_frames 4 --use_cpu True --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
        "--per_device_train_batch_size 4"
    )
    run(command, "train", *options.split())
    assert (tmp_path / "model" / "report.html").is_file()
    clip = next((tmp_path / "clips" / "test").glob("*.mp4"))
    assert run(command, "caption", clip, "--model", "model", "--max_new_tokens", "4").startswith(f"{clip}: ")


@pytest.mark.slow
def test_the_reference_is_made_of_the_docstrings(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    options = re.search(r"/pdoc (.*) --output-directory \S+ (.*)", makefile)
    assert options is not None
    modules = options[2].split()
    command = [sys.executable, "-m", "pdoc", *options[1].split(), "--output-directory", str(tmp_path), *modules]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all((tmp_path / f"{module.replace('.', '/')}.html").is_file() for module in modules)
    page = (tmp_path / "hub_card.html").read_text(encoding="utf-8")
    assert (
        "Uploads an exported folder" in page and "score_captions" in (tmp_path / "vidcap/evaluation.html").read_text()
    )
