from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparing import prepare, ratings_of

from nnsparse_stream.data import dataset
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.errors import InputError
from nnsparse_stream.streaming import base_rows
from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.events import known_schema


def log(path: Path, kind: str) -> str:
    """200 rows of some 20 entries, those of the most entries being the most frequent columns; ids far apart."""
    random = np.random.default_rng(0)
    rows, columns = random.integers(0, 200, 6000) * 10**12, (random.integers(0, 40, 6000) * 7919) % 1000
    pairs = np.unique(np.stack([rows, columns]), axis=1)
    names = [pa.array(some).cast(kind) for some in pairs]
    if kind == "string":
        names = [pa.array([f"id {name}" for name in some.to_pylist()]) for some in names]
    ratings = random.integers(1, 6, pairs.shape[1]).astype(np.float32)
    pq.write_table(pa.table([*names, ratings], names=["user", "item", "rating"]), path)
    return str(path)


@pytest.fixture(scope="module", params=["int64", "string"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset.write_shard, "__defaults__", (200,))  # several row groups a shard
        flags = ["--input", log(where / "log.parquet", request.param), "--folds", "80,10,10", "--num_shards", 3]
        assert prepare(*flags, "--output", where / "data", "--axis", "user") == 0
    return str(where / "data")


@pytest.mark.parametrize("cache_bytes", [0, 20_000, 1 << 20])
def test_the_ratings_of_any_rows(data: str, cache_bytes: int) -> None:
    """Of all folds, in stream shards, with rows that the data set lacks; however little is kept."""
    base = pickle.loads(pickle.dumps(BaseRows(data, cache_bytes=cache_bytes)))
    assert base.num_shards == 18
    wanted = defaultdict(dict)
    for row, column, value, _ in ratings_of(data):
        wanted[row][column] = value
    unknown = ["id x", "", "id 5"] if isinstance(row, str) else [5, -1, 10**15]
    random = np.random.default_rng(1)
    kind = "string" if isinstance(row, str) else "int64"
    found = 0
    for _ in range(5):
        some = pa.array([*random.permutation(sorted(wanted))[:60].tolist(), *unknown], kind)
        for shard, ids in partition(pa.record_batch([some], names=["row"]), "row", base.num_shards):
            known = base.known(shard, ids["row"])
            known.validate(full=True)
            assert known.schema == known_schema(kind, kind)
            rows = [row for row in sorted(ids["row"].to_pylist()) if row in wanted]
            assert known["row"].to_pylist() == rows
            for entry in known.to_pylist():
                held = sorted(wanted[entry["row"]].items())
                assert list(zip(entry["columns"], entry["values"], strict=True)) == held
            found += len(known)
    assert found == 300
    assert max(len(entry.row_groups) for entry in dataset.Dataset(data).shards) > 1


def test_a_process_keeps_what_it_may(data: str) -> None:
    """The row groups that were used last, of all copies together; one at least."""
    for room, most in ((0, 1), (30_000, 30), (1 << 20, 1000)):
        base = BaseRows(data, cache_bytes=room)
        opened = base_rows._open(data, base._fingerprint, room)
        for shard in range(3):
            ids = [row for row, *_ in ratings_of(data)]
            blocks = dict(partition(pa.record_batch([pa.array(ids).unique()], names=["row"]), "row", base.num_shards))
            base.known(shard, blocks[shard]["row"])
            pickle.loads(pickle.dumps(base)).known(shard, blocks[shard]["row"])
        sizes = [size for _, size in opened._kept.values()]
        assert 1 <= len(sizes) <= most
        assert sum(sizes) <= room or len(sizes) == 1
        assert opened is base_rows._open(data, base._fingerprint, room)


def test_shards_are_a_multiple_of_the_data_sets(data: str) -> None:
    assert [BaseRows(data, shards).num_shards for shards in (1, 3, 4, 16, 64)] == [3, 3, 6, 18, 66]


def test_a_data_set_that_is_prepared_anew_is_refused(tmp_path: Path) -> None:
    ratings, data = tmp_path / "ratings.csv", tmp_path / "data"
    ratings.write_text("user,item,rating\n1,2,3\n")
    assert prepare("--input", ratings, "--output", data, "--axis", "user", "--num_shards", 1) == 0
    base = BaseRows(str(data))
    ratings.write_text("user,item,rating\n1,2,4\n")
    assert prepare("--input", ratings, "--output", data, "--axis", "user", "--num_shards", 1, "--overwrite") == 0
    with pytest.raises(InputError, match="another data set than when the job began"):
        base.known(0, pa.array([1]))


def test_a_data_set_of_no_rows_knows_none(tmp_path: Path) -> None:
    ratings, data = tmp_path / "ratings.csv", tmp_path / "data"
    ratings.write_text("user,item,rating\n1,2,3\n")
    assert prepare("--input", ratings, "--output", data, "--axis", "user", "--num_shards", 4) == 0
    base = BaseRows(str(data))
    found = [len(base.known(shard, pa.array([1]))) for shard in range(4)]
    assert sorted(found) == [0, 0, 0, 1]
