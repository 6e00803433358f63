"""Pushes that are cut, refused and repeated: the main revision is what it was or the whole folder."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_card import PushError
from hub_card.exporter import UPLOADED
from hub_card.upload import upload_model
from modeling_vidcap import VideoCaptionConfig
from tests.hub.client import Client
from tests.hub.faults import Fault
from tests.hub.storage import Files
from tests.hub_server import EXPIRED_TOKEN, READ_TOKEN, HubServer

AGAIN = "the last revision is intact, and pushing the same folder again sends only the rest"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.part_size = 40_000
        yield server


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture(autouse=True)
def mended(hub: HubServer) -> Iterator[None]:
    yield
    hub.line.mend()


def model_folder(folder: Path, seed: int, *, shards: int = 2) -> Files:
    """A folder with all that an export must have, weights in so many files; what of it belongs on the Hub."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"model-{at + 1:05d}-of-{shards:05d}.safetensors" for at in range(shards)] if shards > 1 else []
    files = {name: draw.randbytes(100_000) for name in ["model.safetensors", *names]}
    texts = {
        "config.json": json.dumps({"model_type": VideoCaptionConfig.model_type, "seed": seed}),
        "processor_config.json": "{}",
        "modeling_vidcap.py": f"# {seed}\n" * 100,
        "README.md": f"---\nlicense: mit\n---\n# Model {seed}\n",
    }
    files |= {name: text.encode() for name, text in texts.items()}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    return files


def history(hub: HubServer, repo_id: str) -> list[Files]:
    """All that the main revision ever was, the oldest first."""
    repository = hub.repositories["model", repo_id]
    return [hub.files(repo_id, revision=sha) for sha in reversed(repository.history("main"))]


def push(client: Client, folder: Path, repo_id: str, **options: Any) -> Any:
    """Uploads a folder in the way of [`push_to_hub`], which would also look into it."""
    return client.call("upload_model", directory=folder, repo_id=repo_id, patterns=UPLOADED, **options)


def push_cut_at(hub: HubServer, client: Client, share: float, lasting: bool, repo_id: str, tmp_path: Path) -> None:
    """The upload of a second model breaks at a share of all bytes: healed by the same call, or by the next."""
    old, new = model_folder(tmp_path / "old", 1), model_folder(tmp_path / "new", 2, shards=1)
    assert push(client, tmp_path / "old", repo_id).error is None
    hub.objects.clear()
    start = hub.line.passed
    assert push(client, tmp_path / "new", f"{repo_id}-measured").error is None
    whole = hub.line.passed - start
    for oid in [oid for oid, content in hub.objects.items() if content not in old.values()]:
        del hub.objects[oid]
    hub.line.cut(int(share * whole), lasting=lasting)
    result = push(client, tmp_path / "new", repo_id)
    if lasting:
        assert result.error == "PushError", result
        assert result.message.startswith(f"{repo_id} was not pushed: no connection to {hub.url} (")
        assert result.message.endswith(AGAIN) and "\n" not in result.message
        assert hub.files(repo_id) in (old, new)
        hub.line.mend()
        result = push(client, tmp_path / "new", repo_id)
    assert result.error is None, result
    assert max(result.waits, default=0) <= 8 and len(result.waits) <= 5
    assert hub.files(repo_id) == new
    assert history(hub, repo_id) == [{}, old, new]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("share", [0.5, 0.97], ids=["weights", "commit"])
def test_an_upload_that_is_cut_is_completed(
    hub: HubServer, client: Client, tmp_path: Path, share: float, lasting: bool
) -> None:
    push_cut_at(hub, client, share, lasting, f"tester/cut-{share}-{lasting}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("position", range(20))
def test_an_upload_that_is_cut_anywhere_is_completed(
    hub: HubServer, client: Client, tmp_path: Path, position: int, lasting: bool
) -> None:
    share = random.Random(position).random()
    push_cut_at(hub, client, share, lasting, f"tester/anywhere-{position}-{lasting}", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_client_that_is_killed_leaves_a_whole_revision(
    hub: HubServer, client: Client, tmp_path: Path, share: float
) -> None:
    repo_id = f"tester/killed-{share}"
    old, new = model_folder(tmp_path / "old", 3), model_folder(tmp_path / "new", int(100 * share), shards=1)
    for folder in ("old", "new"):
        start = hub.line.passed
        assert push(client, tmp_path / folder, f"{repo_id}-measured").error is None
    whole = hub.line.passed - start
    assert push(client, tmp_path / "old", repo_id).error is None
    hub.objects.clear()
    with Client(hub, tmp_path / "home") as mortal:
        hub.line.cut(int(share * whole), then=mortal.process.kill)
        with pytest.raises((EOFError, BrokenPipeError)):
            push(mortal, tmp_path / "new", repo_id)
    assert hub.files(repo_id) in (old, new)
    assert push(client, tmp_path / "new", repo_id).error is None
    assert history(hub, repo_id) == [{}, old, new]


def test_what_was_uploaded_is_not_sent_again(hub: HubServer, client: Client, tmp_path: Path) -> None:
    model_folder(tmp_path, 5)
    hub.line.inject(Fault("POST .*/commit/", status=400))
    assert "400, injected" in push(client, tmp_path, "tester/kept").message
    before = len(hub.requests)
    assert push(client, tmp_path, "tester/kept").error is None
    assert not [each for each in hub.requests[before:] if each.startswith("PUT")]
    assert push(client, tmp_path, "tester/kept").error is None  # nothing new: no further commit
    assert len(history(hub, "tester/kept")) == 2


def test_a_lost_answer_to_the_commit_makes_no_second_one(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path, 6)
    hub.line.inject(Fault("POST .*/commit/", cut_response=0))
    result = push(client, tmp_path, "tester/lost")
    assert result.error is None and result.waits == [1.0]
    assert history(hub, "tester/lost") == [{}, files]


@pytest.mark.parametrize("request_, status", [("repos/create", 503), ("/commit/", 429), ("/commit/", 412)])
def test_refusals_that_pass_are_tried_again_and_not_for_ever(
    hub: HubServer, client: Client, tmp_path: Path, request_: str, status: int
) -> None:
    files = model_folder(tmp_path, 7)
    repo_id = f"tester/busy-{status}"
    hub.line.inject(Fault(request_, status=status, headers={"Retry-After": "5"}, times=2))
    result = push(client, tmp_path, repo_id)
    assert result.error is None and result.waits == [5.0, 5.0]
    assert history(hub, repo_id) == [{}, files]

    hub.line.inject(Fault(request_, status=status, times=100))
    (tmp_path / "README.md").write_text("# A new card")
    result = push(client, tmp_path, repo_id)
    assert result.error == "PushError" and result.waits == [1.0, 2.0, 4.0, 8.0]
    assert f"the Hub refused {repo_id}: {status}, injected" in result.message and "\n" not in result.message
    assert history(hub, repo_id) == [{}, files]


def test_a_hub_that_asks_for_a_long_wait_is_not_waited_for(hub: HubServer, client: Client, tmp_path: Path) -> None:
    model_folder(tmp_path, 8)
    hub.line.inject(Fault("repos/create", status=429, headers={"Retry-After": "900"}))
    result = push(client, tmp_path, "tester/patience")
    assert result.waits == [] and "429, injected; push again in 900 s" in result.message


def test_tokens_that_do_not_do(hub: HubServer, client: Client, tmp_path: Path) -> None:
    model_folder(tmp_path, 9)
    tokens = "https://huggingface.co/settings/tokens"
    expired, role = 'User Access Token "tester" is expired', "use a token with the role write"
    for repo_id, token, reason in (
        ("tester/no", EXPIRED_TOKEN, f"401, {expired}; create a new token that may write ({tokens})"),
        ("tester/no", "hf_unknown", "401, Invalid credentials in Authorization header; create a new token"),
        ("tester/no", READ_TOKEN, f'the namespace "tester"; {role}'),
        ("others/no", None, f'the namespace "others"; {role}'),
    ):
        result = push(client, tmp_path, repo_id, token=token)
        assert result.error == "PushError" and result.waits == []
        assert result.message.startswith(f"the Hub refused {repo_id}: 40") and reason in result.message, result.message
        assert "\n" not in result.message and ("model", repo_id) not in hub.repositories
    client.value("create_repo", repo_id="tester/readable")
    result = push(client, tmp_path, "tester/readable", token=READ_TOKEN)
    assert result.error == "PushError" and "the Hub refused tester/readable: 403" in result.message
    client.value("environment", HF_TOKEN="")
    result = push(client, tmp_path, "tester/no")
    assert result.message.startswith(f"no token for the Hub; create one that may write ({tokens})")
    client.value("environment", HF_TOKEN="hf_loopback")


def test_offline(tmp_path: Path) -> None:
    model_folder(tmp_path, 10)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):  # as tests/conftest.py does
        upload_model(tmp_path, "tester/offline", UPLOADED, token="hf_any")


def test_branches_messages_and_pull_requests(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path, 15)
    commit = {"revision": "next", "commit_message": "A title"}
    assert push(client, tmp_path, "tester/branched", commit=commit).error is None
    repository = hub.repositories["model", "tester/branched"]
    assert hub.files("tester/branched") == {} and hub.files("tester/branched", revision="next") == files
    assert repository.titles[repository.branches["next"]] == "A title"
    hub.line.inject(Fault("POST .*/commit/", status=503, times=9))
    result = push(client, tmp_path, "tester/branched", commit={"create_pr": True})
    assert result.error == "PushError" and result.waits == []  # a second attempt might open a second one


def test_a_part_replaces_weights_alone(hub: HubServer, client: Client, tmp_path: Path) -> None:
    old = model_folder(tmp_path / "old", 16)
    new = model_folder(tmp_path / "new", 17, shards=1)
    assert push(client, tmp_path / "old", "tester/parts").error is None
    (tmp_path / "new" / "processor_config.json").unlink()
    assert push(client, tmp_path / "new", "tester/parts", complete=False).error is None
    assert hub.files("tester/parts") == {**new, "processor_config.json": old["processor_config.json"]}


def test_a_repository_that_holds_something_else(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path, 11)
    bert = {"config.json": '{"model_type": "bert"}', "vocab.txt": "a", "README.md": "# Mine", "notes/a.json": "{}"}
    client.value("create_repo", repo_id="tester/bert")
    client.value("commit", repo_id="tester/bert", files={**bert, "demo.py": "1"})
    for repo_id, held in (("tester/bert", "a model of type bert"), ("tester/weights", "weights.bin")):
        client.value("create_repo", repo_id=repo_id, exist_ok=True)
        client.value("commit", repo_id=repo_id, files={"weights.bin": "w"})
        result = push(client, tmp_path, repo_id)
        assert result.error == "PushError" and result.message.startswith(f"{repo_id} holds something else ({held})")
        assert "force=True" in result.message
    assert push(client, tmp_path, "tester/bert", force=True).error is None
    beside = {"notes/a.json": b"{}", "demo.py": b"1", "weights.bin": b"w"}
    assert hub.files("tester/bert") == files | beside  # what no loader takes stays

    client.value("create_repo", repo_id="tester/card")
    client.value("commit", repo_id="tester/card", files={"README.md": "# Soon", "LICENSE": "mine"})
    assert push(client, tmp_path, "tester/card").error is None


def test_a_private_model_is_not_put_into_a_public_repository(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path, 12)
    client.value("create_repo", repo_id="tester/public")
    result = push(client, tmp_path, "tester/public", private=True)
    assert result.error == "PushError" and "tester/public is public" in result.message
    assert hub.files("tester/public") == {}
    assert push(client, tmp_path, "tester/hidden", private=True).error is None
    assert hub.repositories["model", "tester/hidden"].private and hub.files("tester/hidden") == files


def test_a_download_that_is_cut_goes_on_where_it_was(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path / "model", 13, shards=1)
    files["model.safetensors"] = random.Random(13).randbytes(12_000_000)
    (tmp_path / "model" / "model.safetensors").write_bytes(files["model.safetensors"])
    assert push(client, tmp_path / "model", "tester/pulled").error is None
    before = len(hub.exchanges)
    hub.line.inject(Fault("GET /cdn/", cut_response=11_000_000))
    folder = client.value("snapshot_download", repo_id="tester/pulled")
    assert {name: (Path(folder) / name).read_bytes() for name in files} == files
    gets = [each["headers"] for each in hub.exchanges[before:] if each["request"].startswith("GET /cdn/")]
    assert [headers.get("range") for headers in gets] == [None, "bytes=10485760-"]  # written in blocks of 10 MiB


def test_a_download_that_ends_leaves_no_half_file(hub: HubServer, client: Client, tmp_path: Path) -> None:
    files = model_folder(tmp_path / "model", 14, shards=1)
    assert push(client, tmp_path / "model", "tester/ended").error is None
    download = {"repo_id": "tester/ended", "filename": "model.safetensors", "cache_dir": tmp_path / "cache"}
    hub.line.cut(30_000, lasting=True)
    assert client.call("hf_hub_download", **download).error is not None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    hub.line.mend()
    assert Path(client.value("hf_hub_download", **download)).read_bytes() == files["model.safetensors"]
