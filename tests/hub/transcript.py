"""What the real client asks the Hub in one push and one pull, put into a form that is the same each time.

`tests/hub_card/test_hub_transcript.py` compares it with what is recorded in `tests/fixtures/hub_transcript.json`. When
a new version of `huggingface_hub` has changed it, look at the difference, see that `tests/hub_server.py` still answers
as the Hub does, and record anew: `python -m tests.hub.transcript`.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from modeling_vidcap import VideoCaptionConfig

from .client import Client

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "hub_transcript.json"
HEADERS = ("accept", "accept-encoding", "authorization", "content-type", "range")
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "config.json": json.dumps({"model_type": VideoCaptionConfig.model_type}).encode(),
    "model.safetensors": bytes(1000),
    "processor_config.json": b"{}",
}


def transcript() -> dict[str, list[dict[str, Any]]]:
    """The requests of a push of [`FILES`] and of a pull, each with the status of its answer."""
    from tests.hub_server import HubServer

    with tempfile.TemporaryDirectory() as folder, HubServer() as hub:
        model = Path(folder, "model")
        model.mkdir()
        for name, content in FILES.items():
            (model / name).write_bytes(content)
        hub.part_size = 600
        with Client(hub, Path(folder, "home")) as client:
            client.value("upload_model", directory=model, repo_id="tester/model", patterns=["*"], private=True)
            pushed = len(hub.exchanges)
            pulled = client.value("snapshot_download", repo_id="tester/model", max_workers=1)
            assert {name: Path(pulled, name).read_bytes() for name in FILES} == FILES
        return {
            "push": [normalised(each) for each in hub.exchanges[:pushed]],
            "pull": [normalised(each) for each in hub.exchanges[pushed:]],
        }


def normalised(exchange: dict[str, Any]) -> dict[str, Any]:
    """A request without what differs each time: hashes, tokens, boundaries; of its body, what keys it has."""
    headers = {name: exchange["headers"][name] for name in HEADERS if name in exchange["headers"]}
    if "authorization" in headers:
        headers["authorization"] = re.sub(r" .*", " <token>", headers["authorization"])
    if "gzip" in headers.get("accept-encoding", ""):
        headers["accept-encoding"] = "<all that are installed>"
    found = {"request": exchange["request"], "query": sorted(exchange["query"]), "headers": headers}
    found |= {"body": shape(exchange["body"]), "status": exchange["status"]}
    return json.loads(
        re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", re.sub(r"\b[0-9a-f]{40}\b", "<sha1>", json.dumps(found)))
    )


def shape(body: bytes) -> Any:
    """The keys of JSON, or of each of its lines; the number of other bytes."""
    try:
        return [keys(json.loads(line)) for line in body.splitlines()]
    except ValueError:
        return f"{len(body)} bytes"


def keys(value: Any) -> Any:
    """A value of JSON with the names of types in place of numbers and texts, except texts under `key`."""
    if isinstance(value, dict):
        return {name: each if name == "key" else keys(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [keys(each) for each in value[:1]]
    return type(value).__name__


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(transcript(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
