"""The Hub of the tests as the real client sees it: what it serves, what it refuses, and how connections break."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.client import Client
from tests.hub.faults import Fault
from tests.hub_server import EXPIRED_TOKEN, READ_TOKEN, STRANGER_TOKEN, HubServer


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


def repository(client: Client, name: str, **options: object) -> str:
    repo_id = f"tester/{name}"
    client.value("create_repo", repo_id=repo_id, **options)
    return repo_id


def test_strangers_do_not_see_a_private_repository_and_readers_do_not_write(hub: HubServer, client: Client) -> None:
    repo_id = repository(client, "private", private=True)
    client.value("commit", repo_id=repo_id, files={"a.txt": "secret"})
    assert client.value("model_info", repo_id=repo_id)["private"] is True
    assert client.value("model_info", repo_id=repo_id, token=READ_TOKEN)["private"] is True
    for token, status in ((STRANGER_TOKEN, 404), (False, 401), (EXPIRED_TOKEN, 401), ("hf_unknown", 401)):
        for call in ({"function": "model_info"}, {"function": "hf_hub_download", "filename": "a.txt"}):
            refused = client.call(**call, repo_id=repo_id, token=token)
            assert refused.error is not None and refused.status in (status, None), (call, token, refused)
            assert "secret" not in refused.message
    assert "is expired" in client.call("create_repo", repo_id="tester/new", token=EXPIRED_TOKEN).message
    assert client.value("whoami", token=READ_TOKEN)["auth"]["accessToken"]["role"] == "read"
    for token in (READ_TOKEN, STRANGER_TOKEN):
        refused = client.call("create_repo", repo_id="tester/new", token=token)
        assert refused.status == 403 and "don't have the rights" in refused.message
    assert client.call("commit", repo_id=repo_id, files={"a.txt": "b"}, token=READ_TOKEN).status == 403
    assert client.call("create_repo", repo_id="tester/new", token=False).status == 401
    assert hub.files(repo_id) == {"a.txt": b"secret"}
    client.value("update_repo_settings", repo_id=repo_id, private=False)
    assert client.value("model_info", repo_id=repo_id, token=False)["private"] is False


def test_repositories_branches_tags_and_histories(hub: HubServer, client: Client) -> None:
    repo_id = repository(client, "branches")
    assert client.call("create_repo", repo_id=repo_id).status == 409
    client.value("create_repo", repo_id=repo_id, exist_ok=True)
    client.value("create_repo", repo_id=repo_id, repo_type="dataset")  # another repository
    client.value("commit", repo_id=repo_id, files={"a.txt": "1"})
    client.value("create_tag", repo_id=repo_id, tag="v1")
    client.value("create_branch", repo_id=repo_id, branch="side")
    assert client.call("create_branch", repo_id=repo_id, branch="side").status == 409
    client.value("commit", repo_id=repo_id, files={"a.txt": "2"}, revision="side")
    client.value("commit", repo_id=repo_id, files={"a.txt": "3"})
    contents = {revision: hub.files(repo_id, revision=revision)["a.txt"] for revision in ("v1", "side", "main")}
    assert contents == {"v1": b"1", "side": b"2", "main": b"3"}
    assert len(client.value("list_repo_commits", repo_id=repo_id)) == 3
    references = client.value("list_repo_refs", repo_id=repo_id)
    assert {each["name"] for each in references["branches"]} == {"main", "side"}
    assert [each["name"] for each in references["tags"]] == ["v1"]
    assert client.call("model_info", repo_id=repo_id, revision="v2").error == "RevisionNotFoundError"
    assert client.call("hf_hub_download", repo_id=repo_id, filename="no.txt").error == "RemoteEntryNotFoundError"
    assert hub.files(repo_id, kind="dataset") == {}
    client.value("delete_repo", repo_id=repo_id)
    assert client.call("model_info", repo_id=repo_id).error == "RepositoryNotFoundError"


def test_a_commit_happens_whole_and_on_its_parent(hub: HubServer, client: Client) -> None:
    repo_id = repository(client, "commits")
    parent = client.value("model_info", repo_id=repo_id)["sha"]
    client.value("commit", repo_id=repo_id, files={"a.txt": "1"}, parent_commit=parent)
    stale = client.call("commit", repo_id=repo_id, files={"a.txt": "2"}, parent_commit=parent)
    assert stale.status == 412 and "A commit has happened since" in stale.message
    assert client.call("delete_file", repo_id=repo_id, path_in_repo="no.txt").error == "RemoteEntryNotFoundError"
    hub.objects.clear()
    hub.line.inject(Fault("POST .*/lfs/objects/batch", status=500, times=9))
    assert client.call("commit", repo_id=repo_id, files={"b.txt": "1", "c.bin": "2"}).status == 500
    hub.line.mend()
    assert hub.files(repo_id) == {"a.txt": b"1"}


def test_listings_in_pages_and_paths(hub: HubServer, client: Client) -> None:
    repo_id = repository(client, "listings", repo_type="dataset")
    files = {"a.txt": "1", "data/b.parquet": "2", "data/more/c.txt": "3", "z.txt": "4"}
    client.value("commit", repo_id=repo_id, repo_type="dataset", files=files)
    hub.page_size = 2
    try:
        entries = client.value("list_repo_tree", repo_id=repo_id, repo_type="dataset", recursive=True)
        top = client.value("list_repo_tree", repo_id=repo_id, repo_type="dataset")
    finally:
        hub.page_size = 1000
    assert {each["path"] for each in entries} == {*files, ".gitattributes", "data", "data/more"}
    assert {each["path"] for each in top} == {".gitattributes", "a.txt", "data", "z.txt"}
    found = client.value(
        "get_paths_info", repo_id=repo_id, repo_type="dataset", paths=["data/b.parquet", "data", "no"]
    )
    assert [each["path"] for each in found] == ["data/b.parquet", "data"]
    assert found[0]["lfs"]["size"] == 1 and found[0]["blob_id"] != found[0]["lfs"]["sha256"]


def test_large_files_in_parts_are_checked_and_resumed_by_ranges(
    hub: HubServer, client: Client, tmp_path: Path
) -> None:
    repo_id = repository(client, "large")
    content = bytes(range(256)) * 45_000  # 11.5 MB: the client writes down, and so resumes from, blocks of 10 MiB
    (tmp_path / "w.safetensors").write_bytes(content)
    before, hub.part_size = len(hub.requests), 3_000_000
    try:
        client.value(
            "upload_file", repo_id=repo_id, path_in_repo="w.safetensors", path_or_fileobj=tmp_path / "w.safetensors"
        )
    finally:
        hub.part_size = 16 * 2**20
    assert sum(each.startswith("PUT /lfs/") for each in hub.requests[before:]) == 4
    assert hub.files(repo_id) == {"w.safetensors": content}

    hub.line.inject(Fault("GET /cdn/", cut_response=11_000_000))
    before = len(hub.exchanges)
    path = client.value("hf_hub_download", repo_id=repo_id, filename="w.safetensors")
    assert Path(path).read_bytes() == content
    gets = [each["headers"] for each in hub.exchanges[before:] if each["request"].startswith("GET /cdn/")]
    assert [headers.get("range") for headers in gets] == [None, "bytes=10485760-"]
    assert all("authorization" not in headers for headers in gets)  # a token is not for other hosts


def test_a_large_file_that_is_not_what_was_announced_is_refused(hub: HubServer, client: Client) -> None:
    import urllib.error
    import urllib.request

    oid = "0" * 64
    for signature, status in ((hub.signature(oid), 400), ("wrong", 403)):
        address = f"{hub.url}/lfs/{oid}?signature={signature}"
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(address, data=b"other", method="PUT"))
        assert error.value.code == status
    assert oid not in hub.objects


@pytest.mark.parametrize("status", [429, 500, 503])
def test_refusals_that_pass_make_the_client_wait(hub: HubServer, client: Client, status: int) -> None:
    repo_id = repository(client, f"slow-{status}")
    hub.line.inject(Fault("POST .*/preupload/", status=status, headers={"Retry-After": "7"}, times=2))
    result = client.call("commit", repo_id=repo_id, files={"a.txt": "1"})
    assert result.error is None and result.waits == [8.0, 8.0]  # the client adds a second
    assert hub.files(repo_id) == {"a.txt": b"1"}


def test_slow_answers(hub: HubServer, tmp_path: Path) -> None:
    with Client(hub, tmp_path, HF_HUB_ETAG_TIMEOUT="1") as client:
        repo_id = repository(client, "timeout")
        client.value("commit", repo_id=repo_id, files={"a.txt": "1"})
        hub.line.inject(Fault("HEAD /", delay=1.5))
        before = len(hub.requests)
        assert client.call("hf_hub_download", repo_id=repo_id, filename="a.txt").error is None
        heads = [each for each in hub.requests[before:] if each.startswith("HEAD")]
        assert len(heads) == 2  # the first was given up after a second
