"""Fixtures: a small synthetic data set and a model trained on it, made by the commands themselves."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from faults import FaultProxy
from hypothesis import settings
from samples import Trained, command

from nnsparse_stream.storage import retries

pytest.register_assert_rewrite("runs")  # says what two runs differ in

# A shell lets what it runs in the background ignore it, and that is handed down: to tests of Ctrl-C, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Triton reads it once, when it is imported: without a GPU its kernels run by the interpreter, on tensors of the CPU.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"

# How long an example takes is the machine's affair, not the test's. `--hypothesis-profile=thorough` tries many more.
settings.register_profile("any machine", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("any machine")

_KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
_DATA = Path(os.environ.get("NNSPARSE_STREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def movielens() -> Path:
    """The directory with MovieLens-1M and -100K, which may not be redistributed."""
    if not _DATA.is_dir():
        pytest.skip(f"no MovieLens in {_DATA}; set NNSPARSE_STREAM_DATA to a directory that holds it")
    return _DATA


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """User rows, string ids, three folds, three shards, a model of three epochs. Read it, don't change it."""
    from nnsparse_stream.ratings.synthetic import make_ratings

    where = tmp_path_factory.mktemp("trained")
    log, data, run = (str(where / name) for name in ("ratings.parquet", "data", "run"))
    pq.write_table(make_ratings(400, 60, 12_000, 0.5, seed=1).ratings, log)
    command("prepare", "--input", log, "--output", data, "--axis", "user", "--folds", "80,10,10", "--num_shards", "3")
    command("train", "--data", data, "--output", run, "--hidden", "16", "--epochs", "3", "--threads", "1")
    return Trained(log, data, run)


@pytest.fixture(scope="session")
def item_side(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same log and folds by items, two shards, a model of two epochs. Read it, don't change it."""
    where = tmp_path_factory.mktemp("items")
    data, run = str(where / "data"), str(where / "run")
    flags = ["--input", trained.log, "--output", data, "--axis", "item", "--folds", "80,10,10", "--num_shards", "2"]
    command("prepare", *flags)
    command("train", "--data", data, "--output", run, "--hidden", "8", "--epochs", "2", "--threads", "1")
    return Trained(trained.log, data, run)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of an S3 protocol server on the loopback interface."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def s3_proxy(s3_server: tuple[str, int]) -> Iterator[FaultProxy]:
    """What stands between the S3 client and its server; it breaks nothing until a plan is set."""
    proxy = FaultProxy(*s3_server)
    yield proxy
    proxy.close()


@pytest.fixture
def s3(s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh bucket, reached through `s3_proxy`; endpoint and keys are set as users of fsspec and S3 set them."""
    import s3fs

    for name, value in _KEYS.items():
        monkeypatch.setenv(name, value)
    # A slow machine's server takes its time; the client is only impatient where a test lets the server stall.
    config = {"endpoint_url": s3_proxy.url, "config_kwargs": {"read_timeout": 250}}
    monkeypatch.setitem(fsspec.config.conf, "s3", config)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(retries, "BACKOFF", retries.Backoff(first_seconds=0.01, longest_seconds=0.05))
    bucket = f"ratings-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()
