"""An S3 server that fails: what is read and written is exact, or one clear line says what failed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from faults import FAULTS, FaultProxy, Request, at_random, once
from samples import command, contents, way

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage import retries
from nnsparse_stream.storage.matching import match_files

DATA = random.Random(0).randbytes(3_000_000)
#: What the client notices without waiting for it.
BROKEN = tuple(fault for fault in FAULTS if fault != "stall")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the retries logged; the server, which runs in this process, logs too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("nnsparse_stream")]


@pytest.mark.parametrize("fault", BROKEN)
def test_one_fault_is_survived_with_one_warning(
    s3: str, s3_proxy: FaultProxy, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    requests: dict[str, Callable[[], object]] = {
        "PUT": lambda: storage.write_file(f"{s3}/a", DATA),
        "HEAD": lambda: storage.file_size(f"{s3}/a"),
        "GET": lambda: storage.read_file(f"{s3}/a"),
        "LIST": lambda: storage.list_files(s3),
        "DELETE": lambda: storage.remove_file(f"{s3}/a"),
    }
    results = {}
    for name, make in requests.items():
        before = s3_proxy.counts[fault]
        method = "GET" if name == "LIST" else name
        s3_proxy.plan = once(fault, lambda request, method=method: request.method == method)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nnsparse_stream"):
            results[name] = make()
        met = s3_proxy.counts[fault] - before
        assert met == (0 if fault == "short" and method != "GET" else 1)
        # A listing's or a deletion's answer that is cut short may hold all that is needed.
        # Where the connection breaks, or only the end of an answer without content, the client may do without a retry.
        warned = len(warnings_in(caplog))
        assert warned == met or (fault in ("reset", "lost", "cut", "short") and warned < met)
    assert results["HEAD"] == len(DATA)
    assert results["GET"] == DATA
    assert results["LIST"] == {"a": len(DATA)}
    assert not storage.exists(f"{s3}/a")


def test_a_server_that_does_not_answer_is_asked_again(
    s3: str, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs

    impatient = {"endpoint_url": s3_proxy.url, "config_kwargs": {"read_timeout": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", impatient)
    s3fs.S3FileSystem.clear_instance_cache()
    requests: dict[str, Callable[[], object]] = {
        "PUT": lambda: storage.write_file(f"{s3}/a", b"data"),
        "GET": lambda: storage.read_file(f"{s3}/a"),
    }
    for method, make in requests.items():
        s3_proxy.plan = once("stall", lambda request, method=method: request.method == method)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nnsparse_stream"):
            result = make()
        assert warnings_in(caplog)  # a slow server may be asked more than twice
    assert s3_proxy.counts["stall"] == 2
    assert result == b"data"


@pytest.mark.parametrize("fault", ["cut", "short", "reset"])
def test_a_stream_that_breaks_goes_on_at_its_place(s3: str, s3_proxy: FaultProxy, fault: str) -> None:
    storage.write_file(f"{s3}/a", DATA)
    with storage.open_input(f"{s3}/a") as stream:
        first = stream.read(1_500_000)
        s3_proxy.plan = once(fault)
        start = len(s3_proxy.seen)
        assert first + stream.read() == DATA
    assert s3_proxy.counts[fault] == 1
    assert all(request.range != "bytes=0-" for request in s3_proxy.seen[start:])


def test_a_file_that_is_replaced_while_it_is_read_is_refused(s3: str) -> None:
    storage.write_file(f"{s3}/a", DATA)
    with storage.open_input(f"{s3}/a") as stream:
        stream.read(100)
        storage.write_file(f"{s3}/a", DATA[::-1])
        with pytest.raises(InputError, match=r"/a: cannot be read: .* no longer exists"):
            stream.read()


def test_a_store_that_stays_broken_is_asked_so_many_times_and_named(s3: str, s3_proxy: FaultProxy) -> None:
    storage.write_file(f"{s3}/a", DATA)
    for fault in ("503", "500", "reset"):
        s3_proxy.plan = lambda request, fault=fault: fault
        for act in (storage.read_file, storage.list_files, storage.exists, lambda url: storage.write_file(url, b"")):
            before = len(s3_proxy.seen)
            with pytest.raises(StoreError, match=r"s3://.* cannot be (read|written): .* \(8 tries in .* again later"):
                act(f"{s3}/a")
            # aiohttp itself asks once more where the connection breaks.
            assert len(s3_proxy.seen) - before == retries.BACKOFF.tries * (2 if fault == "reset" else 1)


@pytest.mark.parametrize("pattern", ["*/a.csv", "*/*/a.csv", "x/*/a.csv", "*/*"])
@pytest.mark.parametrize(("fault", "error"), [("503", StoreError), ("403", InputError), ("reset", StoreError)])
def test_a_glob_leaves_out_no_directory_that_cannot_be_listed(
    s3: str, s3_proxy: FaultProxy, pattern: str, fault: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x/a.csv", "x/y/a.csv", "z/a.csv"):
        storage.write_file(f"{s3}/{name}", b"1,1,5")
    found = match_files([f"{s3}/{pattern}"])

    def is_meant(request: Request) -> bool:
        return "prefix=x%2F&" in request.path

    if error is StoreError:
        s3_proxy.plan = once(fault, is_meant)
        assert match_files([f"{s3}/{pattern}"]) == found
        assert s3_proxy.counts[fault] == 1
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(2, 0.01))
    s3_proxy.plan = lambda request: fault if is_meant(request) else None
    with pytest.raises(error, match="cannot be read"):
        match_files([f"{s3}/{pattern}"])


def test_what_no_retry_can_mend_fails_at_once(
    s3: str, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage.write_file(f"{s3}/a", b"1")
    start = len(s3_proxy.seen)
    with pytest.raises(InputError, match=r"/none: no such file"):
        storage.read_file(f"{s3}/none")
    with pytest.raises(InputError, match=r"no-such-bucket/b: cannot be written: The specified bucket does not exist"):
        storage.write_file("s3://no-such-bucket/b", b"")
    s3_proxy.plan = lambda request: "403"
    for act in (storage.read_file, storage.list_files, storage.exists, lambda url: storage.write_file(url, b"")):
        with pytest.raises(InputError, match=r"s3://.* cannot be (read|written): (Access Denied|Forbidden)"):
            act(f"{s3}/a")
    assert len(s3_proxy.seen) - start <= 10
    assert warnings_in(caplog) == []


def test_no_credentials_are_said_to_be_missing(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=r"/a: cannot be written: Unable to locate credentials"):
        storage.write_file(f"{s3}/a", b"1")
    assert warnings_in(caplog) == []


@pytest.fixture
def small_parts(s3: str, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What is uploaded in three parts: the client makes them of the least size that S3 takes, not of 50 MiB."""
    import s3fs

    upload = s3fs.S3FileSystem._pipe_file

    async def in_parts(self: s3fs.S3FileSystem, path: str, data: bytes) -> object:
        return await upload(self, path, data, chunksize=5 << 20)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", in_parts)
    s3fs.S3FileSystem.clear_instance_cache()
    return bytes(15 << 20)


def test_a_failed_multipart_upload_leaves_nothing(
    s3: str, s3_proxy: FaultProxy, small_parts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(2, 0.01))
    s3_proxy.plan = lambda request: "503" if "partNumber=2" in request.path else None
    with pytest.raises(StoreError, match="cannot be written"):
        storage.write_file(f"{s3}/large", small_parts)
    s3_proxy.plan = once("reset", lambda request: "partNumber=2" in request.path)
    assert storage.list_files(s3) == {}
    fs, _ = storage.filesystem(s3)
    assert fs.list_multipart_uploads(s3.removeprefix("s3://")) == []
    storage.write_file(f"{s3}/large", small_parts)
    assert storage.list_files(s3) == {"large": len(small_parts)}


def test_an_upload_whose_completion_was_not_answered_is_made_again(
    s3: str, s3_proxy: FaultProxy, small_parts: bytes
) -> None:
    """The store has the object, and the client's attempt to give the upload up gets a 404: no permanent error."""
    s3_proxy.plan = once("lost", lambda request: request.method == "POST" and "uploadId=" in request.path)
    storage.write_file(f"{s3}/large", small_parts)
    assert s3_proxy.counts["lost"] == 1
    assert storage.list_files(s3) == {"large": len(small_parts)}
    fs, _ = storage.filesystem(s3)
    assert fs.list_multipart_uploads(s3.removeprefix("s3://")) == []


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "ratings.parquet"
    pq.write_table(make_ratings(200, 40, 4_000, 0.5, seed=1).ratings, path)
    return path.read_bytes()


def test_the_whole_way_through_a_failing_store_gives_the_same_bytes(
    log: bytes, tmp_path: Path, s3: str, s3_proxy: FaultProxy
) -> None:
    expected = way(log, str(tmp_path), resumed=False)
    s3_proxy.plan = at_random(1, 0.15, BROKEN)
    found = way(log, s3, resumed=True)
    s3_proxy.plan = lambda request: None
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert all(s3_proxy.counts[fault] > 0 for fault in BROKEN), s3_proxy.counts


def test_a_store_that_is_lost_on_the_way_leaves_nothing_that_looks_whole(
    log: bytes, tmp_path: Path, s3: str, s3_proxy: FaultProxy, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(2, 0.001))
    storage.write_file(f"{s3}/in.parquet", log)
    flags = ["--input", f"{s3}/in.parquet", "--axis", "user", "--num_shards", "3", "--output"]
    start = len(s3_proxy.seen)
    command("prepare", *flags, f"{s3}/whole")
    requests = len(s3_proxy.seen) - start
    expected = contents(f"{s3}/whole")
    draw = random.Random(3)
    for lost_from in sorted(draw.sample(range(2, requests), 4)):
        start = len(s3_proxy.seen)
        fault = draw.choice(("503", "reset", "lost", "cut"))
        last = lost_from + draw.choice((3, 10_000))  # it comes back in time for the removal, or does not
        s3_proxy.plan = lambda request, a=start + lost_from, b=start + last, fault=fault: (
            fault if a <= request.number <= b else None
        )
        output = f"{s3}/out-{lost_from}"
        capsys.readouterr()
        code = cli.main(["prepare", *flags, output])
        s3_proxy.plan = lambda request: None
        errors = capsys.readouterr().err
        if code == 0:  # what was lost was not needed, or the answer only was lost
            assert contents(output) == expected
            continue
        assert code == 1, errors
        assert "Traceback" not in errors
        assert [line for line in errors.splitlines() if line.startswith("nnsparse-stream prepare: ")] == [
            errors.splitlines()[-1]
        ]
        left = storage.list_files(output)
        if "manifest.json" in left:  # only its answer, or what comes after it, was lost
            assert {**contents(output), "_unfinished.json": b""} == {**expected, "_unfinished.json": b""}
        else:
            with pytest.raises(InputError, match="is not a data set"):
                Dataset(output)
        command("prepare", *flags, output, "--overwrite")
        assert contents(output) == expected
