"""A client of the Hub in a process of its own, which takes many calls: to import the real one takes seconds.

It does not wait between attempts, it notes for how long it would have.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    """What a call returned, or the name, text and HTTP status of what it raised; the waits between its attempts."""

    value: Any = None
    error: str | None = None
    message: str = ""
    status: int | None = None
    waits: tuple[float, ...] = ()


class Client:
    """The process, as a context manager."""

    def __init__(self, hub: "HubServer", home: Path, **environment: str) -> None:
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        environment = {**hub.environment(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
        command = [sys.executable, "-m", "tests.hub.client"]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()

    def call(self, function: str, **arguments: Any) -> Result:
        """
        Calls a method of `HfApi`, or `upload_model` of this package, or `commit` (texts by path).

        Raises:
            EOFError: If the process died over it.
        """
        self.process.stdin.write(json.dumps([function, arguments], default=os.fspath) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise EOFError(f"the client died over {function}")
        return Result(**json.loads(answer))

    def value(self, function: str, **arguments: Any) -> Any:
        """The same where no error is expected."""
        result = self.call(function, **arguments)
        assert result.error is None, f"{function}: {result.error}: {result.message}"
        return result.value


def _call(function: str, arguments: dict[str, Any]) -> Any:
    from huggingface_hub import CommitOperationAdd, HfApi

    if function == "upload_model":
        from hub_card.upload import upload_model

        return upload_model(**arguments)
    if function == "environment":
        return os.environ.update(arguments)
    if function == "commit":
        function, files = "create_commit", arguments.pop("files")
        arguments["operations"] = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
        arguments["commit_message"] = "a commit"
    value = getattr(HfApi(), function)(**arguments)
    return list(value) if isinstance(value, Iterator) else value


def main() -> None:
    """Answers each line of the standard input with one line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    waits: list[float] = []
    time.sleep = waits.append  # type: ignore[assignment]
    for line in sys.stdin:
        waits.clear()
        try:
            result = {"value": _call(*json.loads(line))}
        except Exception as error:  # all are answers here
            status = getattr(getattr(error, "response", None), "status_code", None)
            result = {"error": type(error).__name__, "message": str(error), "status": status}
        print(
            json.dumps({**result, "waits": waits}, default=lambda each: getattr(each, "__dict__", str(each))),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
