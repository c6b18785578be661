"""A survey of a data set: what is counted, in one pass or in several that add up."""

from __future__ import annotations

import numpy as np
import pytest
from samples import Trained

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.feeding.shares import rows_of, shares
from nnsparse_stream.feeding.survey import survey, survey_shards


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_surveys_of_several_workers_add_up_to_what_is_there(trained: Trained, workers: int) -> None:
    dataset = Dataset(trained.data)
    divided = shares(dataset.manifest, workers)
    counts = np.zeros(dataset.manifest.num_columns, dtype=np.int64)
    validated, lengths = [], {}
    for shard in range(len(dataset.shards)):
        for group in range(len(dataset.shards[shard].row_groups)):
            rows = dataset.read_row_group(shard, group).to_pylist()
            for row in rows:
                counts[[column for column, fold in zip(row["columns"], row["fold"], strict=True) if fold == 0]] += 1
            validated += [(shard, group)] * any(1 in row["fold"] for row in rows)
            lengths[shard, group] = np.array([row["fold"].count(0) for row in rows])
    # Of seven, some have no shard.
    surveys = [
        survey_shards(dataset, range(worker, len(dataset.shards), workers), divided) for worker in range(workers)
    ]
    assert sum(found.column_counts for found in surveys).tolist() == counts.tolist()
    assert sorted(place for found in surveys for place in found.validated) == validated
    entries = []
    for share in divided:
        held = [(lengths[piece.shard, piece.group], piece) for piece in share]
        entries.append(sum(of[slice(None) if (rows := rows_of(p, len(of))) is None else rows].sum() for of, p in held))
    share_entries = sum(found.share_entries for found in surveys)
    assert share_entries.tolist() == entries
    total = dataset.manifest.fold_entries["train"]
    assert counts.sum() == sum(entries) == total
    assert np.abs(share_entries - total / workers).max() < 0.2 * total / workers
    if workers == 1:
        alone = survey(dataset)
        assert alone.column_counts.tolist() == counts.tolist()
        assert (alone.validated, alone.share_entries.tolist()) == (validated, [total])
