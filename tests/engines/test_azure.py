"""An Azure protocol server that fails, Azurite: what adlfs and our retries make of it together."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from faults import FAULTS, FaultProxy, at_random, once
from samples import command, contents, way

from commands import digest
from deploy.engines.engine import cached, missing_tools, run_tool
from deploy.engines.servers import Servers, free_ports, listens
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import retries

adlfs = pytest.importorskip("adlfs")

#: The last that runs on Node before 22.
VERSION = "3.35.0"
KEY = base64.b64encode(b"the key of an account that the tests make").decode()
DATA = bytes(range(256)) * 12_000
BROKEN = tuple(fault for fault in FAULTS if fault != "stall")


def program() -> Path:
    """Azurite's main file, from the cache of the engines."""

    def install(directory: Path) -> None:
        package = f"azurite@{VERSION}"
        run_tool(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", ".", package], directory)

    return cached(f"azurite-{VERSION}", install) / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an Azure protocol server on the loopback interface, which keeps its blobs in memory."""
    missing = missing_tools("node", "npm")
    if missing:
        pytest.skip(missing)
    servers = Servers(tmp_path_factory.mktemp("azurite"))
    (port,) = free_ports(1)
    flags = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    # The client names a version of the protocol that is newer than the server.
    flags += ["--skipApiVersionCheck", "--silent"]
    try:
        servers.start("azurite", ["node", program(), *flags], {"AZURITE_ACCOUNTS": f"ratings:{KEY}"})
        servers.wait(f"the port {port}", lambda: listens(port), 60)
        yield port
    finally:
        servers.stop()


@pytest.fixture
def proxy(azurite: int) -> Iterator[FaultProxy]:
    """What stands between the client and the server."""
    proxy = FaultProxy("127.0.0.1", azurite)
    yield proxy
    proxy.close()


def connection(url: str, key: str = KEY) -> str:
    return f"DefaultEndpointsProtocol=http;AccountName=ratings;AccountKey={key};BlobEndpoint={url}/ratings;"


@pytest.fixture
def azure(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh container, reached through `proxy`; endpoint and key are set as users of Azure set them."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection(proxy.url))
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(first_seconds=0.01, longest_seconds=0.05))
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    container = f"ratings-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("az").mkdir(container)
    yield f"az://{container}"
    adlfs.AzureBlobFileSystem.clear_instance_cache()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_of_each_request_is_survived_in_no_time(azure: str, proxy: FaultProxy, fault: str) -> None:
    """The client's own retries would wait 15 seconds each."""
    url = f"{azure}/deep/a"
    requests: dict[str, Callable[[], object]] = {
        "PUT": lambda: storage.write_file(url, DATA),
        "HEAD": lambda: storage.file_size(url),
        "GET": lambda: storage.read_file(url),
        "LIST": lambda: storage.list_files(azure),
        "DELETE": lambda: storage.remove_file(url),
    }
    results = {}
    for name, make in requests.items():
        before, started = proxy.counts[fault], time.monotonic()
        method = "GET" if name == "LIST" else name
        proxy.plan = once(fault, lambda request, method=method: request.method == method)
        results[name] = make()
        assert time.monotonic() - started < 15
        assert proxy.counts[fault] - before == (0 if fault == "short" and method != "GET" else 1)
    assert results == {"PUT": None, "HEAD": len(DATA), "GET": DATA, "LIST": {"deep/a": len(DATA)}, "DELETE": None}
    assert not storage.exists(url)


def test_a_server_that_stays_broken_is_asked_so_many_times_and_named(azure: str, proxy: FaultProxy) -> None:
    storage.write_file(f"{azure}/a", DATA)
    acts = (storage.read_file, storage.exists, storage.remove_file, lambda url: storage.write_file(url, b""))
    for fault in ("503", "500", "reset"):
        proxy.plan = lambda request, fault=fault: fault
        for act in acts:
            before = len(proxy.seen)
            with pytest.raises(StoreError, match=r"az://.* cannot be (read|written|removed): .{1,80} \(8 tries in "):
                act(f"{azure}/a")
            # aiohttp itself asks once more where the connection breaks.
            assert len(proxy.seen) - before == retries.BACKOFF.tries * (2 if fault == "reset" else 1)


def test_what_no_retry_can_mend_fails_at_once_in_one_line(
    azure: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = len(proxy.seen)
    with pytest.raises(InputError, match=r"/none: no such file$"):
        storage.read_file(f"{azure}/none")
    with pytest.raises(InputError, match=r"/b: cannot be written: The specified container .* \(HTTP status 404\)$"):
        storage.write_file("az://no-such-container/b", b"")
    proxy.plan = lambda request: "403"
    for act in (storage.read_file, storage.list_files, storage.exists, lambda url: storage.write_file(url, b"")):
        with pytest.raises(InputError, match=r"cannot be (read|written): (Access Denied|Forbidden) \(HTTP status 403"):
            act(f"{azure}/a")
    assert len(proxy.seen) - start <= 10
    proxy.plan = lambda request: None
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    wrong = base64.b64encode(b"another").decode()
    monkeypatch.setitem(fsspec.config.conf, "az", {"connection_string": connection(proxy.url, wrong)})
    with pytest.raises(InputError, match=r"/a: cannot be written: Server failed to authenticate the request.*403\)$"):
        storage.write_file(f"{azure}/a", b"")


def test_the_whole_way_through_a_failing_server_gives_the_same_bytes(
    azure: str, proxy: FaultProxy, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    pq.write_table(make_ratings(200, 40, 4_000, 0.5, seed=1).ratings, tmp_path / "ratings.parquet")
    log = (tmp_path / "ratings.parquet").read_bytes()
    expected = way(log, str(tmp_path / "local"), resumed=False)
    proxy.plan = at_random(1, 0.15, BROKEN)
    started = time.monotonic()
    found = way(log, azure, resumed=True)
    record_property("seconds", f"{time.monotonic() - started:.1f}")
    record_property("checksum", digest({name: hashlib.sha256(data).hexdigest() for name, data in found.items()}))
    proxy.plan = lambda request: None
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert all(proxy.counts[fault] > 0 for fault in BROKEN), proxy.counts


def test_a_server_that_is_lost_on_the_way_leaves_nothing_that_looks_whole(
    azure: str, proxy: FaultProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials and endpoint from fsspec's configuration; what comes after the first shard is refused."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setitem(fsspec.config.conf, "az", {"connection_string": connection(proxy.url)})
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(2, 0.001))
    log = str(tmp_path / "ratings.parquet")
    pq.write_table(make_ratings(200, 40, 4_000, 0.5, seed=1).ratings, log)
    flags = ["prepare", "--input", log, "--axis", "user", "--num_shards", "3", "--output", f"{azure}/data"]
    written: list[str] = []

    def plan(request: Any) -> str | None:
        written.extend(request.path for _ in range(request.method == "PUT" and "/rows/" in request.path))
        return "503" if written else None

    proxy.plan = plan
    assert cli.main(flags) == 1
    proxy.plan = lambda request: None
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("nnsparse-stream prepare: az://")
    assert "_unfinished.json" in storage.list_files(f"{azure}/data")
    with pytest.raises(InputError, match="is not a data set"):
        Dataset(f"{azure}/data")
    command(*flags)
    command(*flags[:-1], str(tmp_path / "local"))
    assert contents(f"{azure}/data") == contents(str(tmp_path / "local"))
