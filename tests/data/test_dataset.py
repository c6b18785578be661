"""Data sets on storage: what was written is read back, in bounded pieces; damage is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nnsparse_stream.data.dataset import Dataset, shard_schema, write_shard, write_vocabulary
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import count_ids, order_counts

LENGTHS = [3, 1, 9, 2, 2, 2, 4, 1]


def rows(first: int) -> pa.RecordBatch:
    records = [
        {
            "row": f"r{first + place:03d}",
            "columns": list(range(length)),
            "values": [float(place)] * length,
            "fold": [place % 3] * length,
        }
        for place, length in enumerate(LENGTHS)
    ]
    return pa.RecordBatch.from_pylist(records, schema=shard_schema(pa.string()))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    url = str(tmp_path / "data")
    vocabulary = order_counts(count_ids(pa.array(np.arange(9))))
    shards = (
        write_shard(url, 0, 3, rows(0), row_group_entries=5),
        write_shard(url, 1, 3, rows(0).slice(0, 0)),
        write_shard(url, 2, 3, rows(100)),
    )
    manifest = Manifest(
        axis="user",
        row_id_type="string",
        column_id_type="int64",
        num_columns=9,
        num_rows=16,
        num_entries=48,
        fold_entries={"train": 18, "validation": 14, "test": 16},
        folds={"method": "hash", "percent": [90, 0, 10], "seed": 0},
        ratings={"min": 0.0, "max": 7.0, "mean": 3.0, "std": 1.0},
        records={"read": 48, "bad": 0, "filtered": 0, "duplicates": 0},
        duplicates="error",
        columns=(write_vocabulary(url, vocabulary),),
        shards=shards,
    )
    (tmp_path / "data" / "manifest.json").write_bytes(manifest.to_json())
    found = Dataset(url)
    assert found.manifest == manifest
    return found


def test_row_groups_are_bounded_and_a_heavy_row_is_alone(dataset: Dataset) -> None:
    assert dataset.shards[0].row_groups == ((2, 4), (1, 9), (2, 4), (1, 2), (2, 5))
    assert dataset.shards[1].row_groups == ()
    assert dataset.read_row_group(0, 1).equals(rows(0).slice(2, 1))


def test_all_batches_are_all_rows_in_order(dataset: Dataset) -> None:
    found = pa.Table.from_batches(dataset.batches())
    assert found.to_pylist() == rows(0).to_pylist() + rows(100).to_pylist()
    assert list(dataset.shard_batches(1)) == []


def test_equal_rows_give_equal_bytes(dataset: Dataset, tmp_path: Path) -> None:
    sliced = pa.concat_batches([rows(50), rows(100)]).slice(len(LENGTHS))
    assert write_shard(str(tmp_path / "other"), 2, 3, sliced) == dataset.shards[2]


def test_the_vocabulary_is_read_once(dataset: Dataset) -> None:
    assert len(dataset.vocabulary()) == 9
    assert dataset.vocabulary() is dataset.vocabulary()


@pytest.mark.parametrize("damage", ["shorter", "longer", "missing"])
def test_a_damaged_shard_is_named(dataset: Dataset, damage: str) -> None:
    path = Path(dataset.url) / dataset.shards[2].path
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if damage == "shorter" else data + b"x")
    next(dataset.shard_batches(0))
    for read in (lambda: dataset.read_row_group(2, 0), lambda: dataset.shard_batches(2), dataset.check_files):
        with pytest.raises(
            InputError, match=r"shard-00002-of-00003\.parquet" + (": no such" if damage == "missing" else " has")
        ):
            read()


def test_a_manifest_whose_row_groups_do_not_add_up_is_damaged(dataset: Dataset) -> None:
    path = Path(dataset.url) / "manifest.json"
    value = json.loads(path.read_text())
    value["shards"][0]["row_groups"] = []
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"manifest.json is damaged \(row_groups of rows/shard-00000"):
        Dataset(dataset.url)


def test_an_altered_byte_is_named_wherever_it_is(dataset: Dataset) -> None:
    """Read whole, any byte; by row groups, any byte of a page that is read."""
    path = Path(dataset.url) / dataset.shards[2].path
    data = path.read_bytes()
    pages = len(data) - int.from_bytes(data[-8:-4], "little") - 8
    unnoticed = []
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(InputError, match=r"shard-00002-of-00003\.parquet was altered.*put the file back"):
            dataset.shard_batches(2)
        try:
            if dataset.read_row_group(2, 0).equals(rows(100)):
                continue  # a byte that is not read, as the name of the program that wrote the file
            unnoticed.append(place)
        except InputError as error:
            assert "shard-00002-of-00003.parquet" in str(error)  # noqa: PT017
    assert [place for place in unnoticed if place < pages] == []


def test_an_altered_vocabulary_is_named(dataset: Dataset) -> None:
    path = Path(dataset.url) / dataset.manifest.columns[0].path
    data = path.read_bytes()
    path.write_bytes(data.replace(b"parquet-cpp", b"parquet-cqq"))
    with pytest.raises(InputError, match=r"part-00000-of-00001\.parquet was altered: its SHA-256 .* prepare again"):
        dataset.vocabulary()


def test_damage_of_the_same_size_is_named(dataset: Dataset) -> None:
    path = Path(dataset.url) / dataset.shards[2].path
    path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(InputError, match=r"shard-00002-of-00003.parquet is damaged"):
        dataset.read_row_group(2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "web app"}, "not the manifest of a data set"),
        ({"schema_version": 2}, "schema version 2; this release reads version 1"),
        ({"axis": "film"}, "axis is 'film'"),
        ({"shards": [{}]}, "damaged"),
        ({"shards": [1]}, "damaged"),
        ({"shards": None}, "damaged"),
        ({"extra": 1}, "damaged"),
        ({"fold_entries": {"train": 48, "validation": 0}}, "fold_entries lack test"),
        ({"fold_entries": {"train": 48, "validation": 0, "test": None}}, "damaged"),
        ({"fold_entries": {"train": 1, "validation": 0, "test": 0}}, "fold_entries do not sum"),
        ({"ratings": {"min": 0, "max": 1, "mean": 0}}, "ratings lack std"),
        ({"num_columns": None}, "num_columns is None, not a whole number"),
        ({"num_columns": 10}, "the columns do not sum to 10"),
        ({"num_rows": True}, "num_rows is True, not a whole number"),
        ({"num_rows": 15}, "the rows do not sum to 15"),
        ({"row_id_type": "float"}, "types of ids"),
        ({"columns": [{"path": "../a", "rows": 9, "bytes": 1, "sha256": ""}]}, r"\.\./a of 9 rows"),
        ({"ratings": {"min": 0, "max": "1", "mean": 0, "std": 0}}, "ratings.max is '1', not a number"),
    ],
)
def test_other_manifests_are_refused(dataset: Dataset, change: dict, message: str) -> None:
    path = Path(dataset.url) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        Dataset(dataset.url)


def test_no_manifest_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a data set: it has no manifest\.json"):
        Dataset(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is not a manifest: no valid JSON"):
        Dataset(str(tmp_path))


def test_every_field_of_the_manifest_is_written(dataset: Dataset) -> None:
    written = json.loads(dataset.manifest.to_json())
    assert set(written) == {field.name for field in dataclasses.fields(Manifest)} | {"kind", "schema_version"}


def test_a_manifest_of_before_there_were_filters_is_read(dataset: Dataset) -> None:
    path = Path(dataset.url) / "manifest.json"
    value = json.loads(path.read_text())
    assert value.pop("filters") == {}
    path.write_text(json.dumps(value))
    assert Dataset(dataset.url).manifest == dataset.manifest
