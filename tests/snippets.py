"""The fenced snippets of Markdown files, and a way to run them: commands in this process, Python files, and others.

    python -m tests.snippets JOBS.json RESULTS.json

runs many in one process of its own, one after another, in the present folder.
"""

import contextlib
import glob
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A block of Python, a command of a block of bash, or another block.

    Args:
        file: Where it stands.
        language: What is written behind its fence.
        text: A command without comment, its lines joined; of other languages the block as it is.
    """

    file: str
    language: str
    text: str

    @property
    def argv(self) -> list[str]:
        """Of a command."""
        return shlex.split(self.text)

    @property
    def is_training(self) -> bool:
        return self.language == "bash" and ("train_hf.py" in self.argv or self.argv[:2] == ["vidcap", "train"])


def find_snippets(text: str, file: str) -> list[Snippet]:
    """All of a Markdown text, in their order."""
    found = []
    for block in FENCE.finditer(text):
        language = block["language"]
        if language != "bash":
            found.append(Snippet(file, language, block["text"]))
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.append(Snippet(file, language, shlex.join(words)))
    return found


@dataclass
class Outcome:
    """Exit status of a snippet, and all that it said."""

    status: int
    output: str


def run(language: str, text: str) -> Outcome:
    """Runs one in the present folder, all but trainings in this process; a failure is a status and a text."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = _run_python(text) if language == "python" else _run_command(shlex.split(text), said)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except Exception:
            traceback.print_exc()
            status = 1
    return Outcome(status, said.getvalue())


def _run_python(text: str) -> int:
    path = Path("snippet.py")
    path.write_text(text, encoding="utf-8")
    runpy.run_path(str(path), run_name="__main__")
    return 0


def _run_command(argv: list[str], said: io.StringIO) -> int:
    argv = [path for word in argv for path in (sorted(glob.glob(word)) if "*" in word else [word])]
    if argv[0] == "vidcap" and argv[1] != "train":
        from vidcap.cli import main

        return main(argv[1:])
    # Trainings write over checkpoints that an earlier one in the same process would still have mapped into memory.
    program = (
        [sys.executable, "-m", "vidcap"] if argv[0] == "vidcap" else [str(Path(sys.executable).with_name(argv[0]))]
    )
    done = subprocess.run([*program, *argv[1:]], capture_output=True, text=True)
    said.write(done.stdout + done.stderr)
    return done.returncode


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    outcomes = []
    for language, text in jobs:
        outcomes.append(asdict(run(language, text)))
        Path(sys.argv[2]).write_text(json.dumps(outcomes), encoding="utf-8")


def run_elsewhere(snippets: list[tuple[str, str]], folder: Path, environment: dict[str, str]) -> list[Outcome]:
    """Runs snippets, each a language and a text, in one process with this environment."""
    jobs, results = folder / "jobs.json", folder / "results.json"
    jobs.write_text(json.dumps(snippets), encoding="utf-8")
    results.unlink(missing_ok=True)
    root = Path(__file__).resolve().parents[1]
    environment = {**environment, "PYTHONPATH": f"{root}{os.pathsep}{environment.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "tests.snippets", str(jobs), str(results)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found = [Outcome(**each) for each in json.loads(results.read_text())] if results.is_file() else []
    assert len(found) == len(snippets), f"{snippets[len(found)]} ended all: {done.returncode}\n{done.stderr}"
    return found


if __name__ == "__main__":
    main()
