"""A GCS protocol server that fails: what gcsfs and our retries make of it together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow.parquet as pq
import pytest
from faults import FaultProxy, at_random
from samples import command

from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import retries

# gcsfs asks by gRPC, in TLS, of what kind a bucket is; an HTTP server at another endpoint has no answer to that.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
gcsfs = pytest.importorskip("gcsfs")
emulator = pytest.importorskip("gcp_storage_emulator.server")


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[tuple[str, int]]:
    """Host and port of a GCS protocol server on the loopback interface, which keeps its objects in memory."""
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket="ratings")
    server.start()
    yield server._api._httpd.socket.getsockname()
    server.stop()


@pytest.fixture
def gcs_proxy(gcs_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Stands before the server; the endpoint is set as users of fsspec set it."""
    proxy = FaultProxy(*gcs_server)
    config = {"endpoint_url": proxy.url, "token": "anon", "project": "x"}
    monkeypatch.setitem(fsspec.config.conf, "gs", config)
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(first_seconds=0.01, longest_seconds=0.05))
    # Its own retries wait a second and more, which it has no setting for.
    monkeypatch.setattr(gcsfs.retry, "asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0.01)))
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield proxy
    gcsfs.GCSFileSystem.clear_instance_cache()
    proxy.close()


def test_files_of_a_failing_server_are_exact(gcs_proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 5_000
    url = "gs://ratings/small/a"
    gcs_proxy.plan = at_random(2, 0.15, ("503", "cut", "short", "reset"), in_a_row=1)
    for _ in range(3):
        storage.write_file(url, data)
        assert storage.read_file(url) == data
        assert storage.list_files("gs://ratings/small") == {"a": len(data)}
        storage.remove_file(url)
        assert not storage.exists(url)
    assert sum(gcs_proxy.counts.values()) - gcs_proxy.counts["passed"] >= 2
    gcs_proxy.plan = lambda request: None
    with pytest.raises(InputError, match="no such file"):
        storage.read_file(url)


def test_prepare_writes_the_same_bytes_to_a_failing_server(gcs_proxy: FaultProxy, tmp_path: Path) -> None:
    log = str(tmp_path / "ratings.parquet")
    pq.write_table(make_ratings(100, 30, 2_000, 0.5, seed=2).ratings, log)
    flags = ["--input", log, "--axis", "user", "--num_shards", "2", "--output"]
    command("prepare", *flags, str(tmp_path / "out"))
    gcs_proxy.plan = at_random(5, 0.08, ("503", "cut", "reset"), in_a_row=1)
    command("prepare", *flags, "gs://ratings/out")
    assert sum(gcs_proxy.counts.values()) - gcs_proxy.counts["passed"] >= 2
    gcs_proxy.plan = lambda request: None
    names = storage.list_files(str(tmp_path / "out"))
    assert storage.list_files("gs://ratings/out") == names
    for name in names:
        assert storage.read_file(f"gs://ratings/out/{name}") == (tmp_path / "out" / name).read_bytes()
