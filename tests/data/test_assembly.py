"""The manifest is made of what the stages of preparation counted, and of nothing that does not add up."""

from __future__ import annotations

from typing import Any

import pytest

from nnsparse_stream.data.assembly import assemble_manifest, filters_to_json
from nnsparse_stream.errors import InputError
from nnsparse_stream.ratings.folds import TimeFolds
from nnsparse_stream.ratings.selection import Selection
from nnsparse_stream.ratings.times import TimeRange


def shard(number: int, entries: int, fold_entries: list[int]) -> dict[str, Any]:
    file = {"path": f"rows/{number}", "rows": 1, "entries": entries, "bytes": 9, "sha256": "x", "row_groups": []}
    statistics = [[*fold_entries, 0, 0], 1.0, 5.0, 2.0, 3.0]
    return {"shard": number, "file": file, "merged": 1, "filtered": 2, "statistics": statistics}


def counted(**changed: Any) -> dict[str, Any]:
    """20 records: 1 bad, 4 left out by time, 6 by shards, 3 merged, 6 stored."""
    vocabulary = {"files": [{"path": "columns/0", "rows": 5, "bytes": 9, "sha256": "y"}], "ratings": 15}
    shards = [shard(1, 4, [3, 0, 1]), shard(0, 2, [1, 1, 0]), shard(2, 0, [0, 0, 0])]
    known = {"axis": "item", "user_type": "int64", "item_type": "string", "folds": None}
    known |= {"feedback": "implicit", "duplicates": "mean"}
    counts = {"read": 20, "bad": 1, "filtered": 4, "vocabulary": vocabulary, "shards": shards}
    return {**known, **counts, "filters": {"time_to": 3}, **changed}


def test_a_manifest_holds_the_sums() -> None:
    manifest = assemble_manifest(**counted())
    assert (manifest.row_id_type, manifest.column_id_type) == ("string", "int64")
    assert (manifest.num_rows, manifest.num_columns, manifest.num_entries) == (3, 5, 6)
    assert [file.path for file in manifest.shards] == ["rows/0", "rows/1", "rows/2"]
    assert manifest.fold_entries == {"train": 4, "validation": 1, "test": 1}
    assert manifest.records == {"read": 20, "bad": 1, "filtered": 10, "duplicates": 3}
    assert (manifest.folds, manifest.filters) == ({"method": "files"}, {"time_to": 3})
    assert manifest.feedback == "implicit"


def test_filters_are_those_that_leave_anything_out() -> None:
    assert filters_to_json(Selection(), 1, 1) == {}
    written = filters_to_json(Selection(TimeRange(3), 4.0), 2, 1)
    assert written == {"time_from": 3, "positive_from": 4, "min_row_ratings": 2}
    assert isinstance(written["positive_from"], int)
    assert filters_to_json(Selection(positive_from=3.5), 1, 1) == {"positive_from": 3.5}


@pytest.mark.parametrize("changed", [{"read": 21}, {"filtered": 3}, {"shards": counted()["shards"][:2]}])
def test_counts_that_do_not_agree_are_the_runners_fault(changed: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"the runner lost or repeated ratings: of .* it wrote 6, merged"):
        assemble_manifest(**counted(**changed))


def test_what_nothing_can_be_trained_on_is_refused() -> None:
    with pytest.raises(InputError, match="there is no rating in the input"):
        assemble_manifest(**counted(read=1))
    empty = [{**shard(0, 0, [0, 0, 0]), "filtered": 14}]
    with pytest.raises(InputError, match=r"no rating is left of 19: the filters {'time_to': 3} leave all"):
        assemble_manifest(**counted(shards=empty))
    late = [{**shard(0, 6, [0, 0, 6]), "filtered": 8}]
    with pytest.raises(InputError, match="no rating comes before the first cut in time"):
        assemble_manifest(**counted(shards=late, folds=TimeFolds(test_from=1)))
