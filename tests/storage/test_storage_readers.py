"""Other programs read what lies on the S3 server, and web servers give input."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from faults import FaultProxy, once
from samples import ROOT, command

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import retries
from nnsparse_stream.storage.matching import match_files


def test_polars_alone_reads_a_data_set_from_the_server(s3: str, s3_server: tuple[str, int], tmp_path: Path) -> None:
    """Its own S3 client, straight from the server: no code of ours and no fsspec between."""
    ratings = make_ratings(100, 30, 2_000, 0.5, seed=2).ratings
    pq.write_table(ratings, tmp_path / "ratings.parquet")
    flags = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "3"]
    command("prepare", "--input", str(tmp_path / "ratings.parquet"), "--output", f"{s3}/data", *flags)
    host, port = s3_server
    store = {
        "aws_endpoint_url": f"http://{host}:{port}",
        "aws_allow_http": "true",
        "aws_access_key_id": "x",
        "aws_secret_access_key": "x",
        "aws_region": "us-east-1",
    }
    ids = pl.scan_parquet(f"{s3}/data/columns/*.parquet", storage_options=store)
    rows = pl.scan_parquet(f"{s3}/data/rows/*.parquet", storage_options=store)
    entries = rows.explode("columns", "values", "fold").rename({"columns": "index"})
    found = entries.join(ids, on="index").select(user="row", item="id", rating="values").collect()
    expected = pl.from_arrow(ratings.select(["user", "item", "rating"])).cast(found.schema)
    assert found.sort("user", "item").rows() == expected.sort("user", "item").rows()


def test_fsspec_environment_reaches_worker_processes(s3: str, s3_proxy: FaultProxy, tmp_path: Path) -> None:
    """A process of its own, with workers of its own, that knows the endpoint from FSSPEC_S3_ENDPOINT_URL only."""
    pq.write_table(make_ratings(50, 20, 500, 0.5, seed=2).ratings, tmp_path / "ratings.parquet")
    flags = ["--input", str(tmp_path / "ratings.parquet"), "--axis", "user", "--num_shards", "2", "--output"]
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=1"]
    done = subprocess.run(
        [sys.executable, "-m", "nnsparse_stream.pipelines.prepare", *flags, f"{s3}/data", *workers],
        env={**os.environ, "FSSPEC_S3_ENDPOINT_URL": s3_proxy.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    command("prepare", *flags, str(tmp_path / "local"))
    names = storage.list_files(str(tmp_path / "local"))
    assert storage.list_files(f"{s3}/data") == names
    for name in names:
        assert storage.read_file(f"{s3}/data/{name}") == (tmp_path / "local" / name).read_bytes()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server over tmp_path/"web": it answers no requests for ranges."""
    (tmp_path / "web").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["ratings.parquet", "ratings.csv", "ratings.csv.gz"])
def test_a_web_server_gives_input(tmp_path: Path, web: str, name: str) -> None:
    ratings = make_ratings(100, 30, 2_000, 0.5, seed=2).ratings
    if name.endswith("parquet"):
        pq.write_table(ratings, tmp_path / "web" / name)
    else:
        with pa.output_stream(str(tmp_path / "web" / name), compression="detect") as stream:
            pa.csv.write_csv(ratings, stream)
    flags = ["--axis", "item", "--num_shards", "2", "--output"]
    command("prepare", "--input", f"{web}/{name}", *flags, str(tmp_path / "http"))
    command("prepare", "--input", str(tmp_path / "web" / name), *flags, str(tmp_path / "local"))
    for path in (tmp_path / "local").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "http" / path.relative_to(tmp_path / "local")).read_bytes()


def test_a_web_server_that_fails_is_retried_or_named(
    tmp_path: Path, web: str, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "web" / "a").write_bytes(data)
    host, port = web.removeprefix("http://").split(":")
    proxy = FaultProxy(host, int(port))
    try:
        for fault in ("503", "reset", "cut", "short"):
            for broken in range(1, 5):
                start = len(proxy.seen)
                proxy.plan = lambda request, at=start + broken, fault=fault: fault if request.number == at else None
                assert storage.read_file(f"{proxy.url}/a") == data
        # Twice: the client itself asks in two ways.
        last = len(proxy.seen) + 2
        proxy.plan = lambda request: "503" if request.number <= last else None
        before = proxy.counts["503"]
        assert storage.can_seek(f"{proxy.url}/a") == storage.can_seek(f"{web}/a")
        assert proxy.counts["503"] == before + 2
        assert {proxy.counts[fault] > 0 for fault in ("503", "reset", "cut", "short")} == {True}
        proxy.plan = lambda request: "503"
        with pytest.raises(StoreError, match=r"/a: cannot be read: .*8 tries"):
            storage.read_file(f"{proxy.url}/a")
        proxy.plan = lambda request: "403"
        with pytest.raises(InputError, match=r"/a: cannot be read: the store answers HTTP status 403"):
            storage.read_file(f"{proxy.url}/a")
    finally:
        proxy.close()
    with pytest.raises(InputError, match=r"/none: no such file"):
        storage.read_file(f"{web}/none")
    assert cli.main(["prepare", "--input", f"{web}/a", "--output", f"{web}/out", "--axis", "user"]) == 2
    assert "http" in capsys.readouterr().err.splitlines()[-1]


def test_a_glob_leaves_out_no_directory_of_a_web_server_that_cannot_be_listed(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(3, 0.01))
    for name in ("x/a.csv", "y/a.csv"):
        storage.write_file(str(tmp_path / "web" / name), b"1,1,5")
    host, port = web.removeprefix("http://").split(":")
    proxy = FaultProxy(host, int(port))
    try:
        glob = [f"{proxy.url}/*/a.csv"]
        assert match_files(glob) == [f"{proxy.url}/{name}/a.csv" for name in ("x", "y")]
        for fault, error in (("reset", StoreError), ("503", StoreError), ("403", InputError)):
            proxy.plan = lambda request, fault=fault: fault if request.path == "/y/" else None
            with pytest.raises(error, match="cannot be read"):
                match_files(glob)
        proxy.plan = once("reset", lambda request: request.path == "/y/")
        assert len(match_files(glob)) == 2
    finally:
        proxy.close()


def test_ranges_are_asked_of_a_server_that_answers_them(s3: str, s3_proxy: FaultProxy) -> None:
    """The S3 server over plain HTTP."""
    data = bytes(range(256)) * 10_000
    storage.write_file(f"{s3}/a", data)
    fs, path = storage.filesystem(f"{s3}/a")
    url = fs.sign(path)
    start = len(s3_proxy.seen)
    with storage.open_input(url) as stream:
        stream.seek(2_000_000)
        assert stream.read(100) == data[2_000_000:2_000_100]
    assert all(request.range for request in s3_proxy.seen[start:] if request.method == "GET")
