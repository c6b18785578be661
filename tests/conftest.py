"""Fixtures: a small synthetic data set and a model trained on it, made by the commands themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from samples import Trained, command

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
    from nnsparse_stream.synthetic import make_ratings

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
