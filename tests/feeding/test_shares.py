"""Shares of the rows: each row in one of them, nearly as many entries in each, whoever asks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsparse_stream.data.manifest import Manifest, ShardFile
from nnsparse_stream.errors import InputError
from nnsparse_stream.feeding.shares import Piece, rows_of, shares

#: (rows, entries) of each row group of each shard; a row has an entry, or a hundred, on average.
GROUPS = st.integers(1, 9).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(rows, 100 * rows)))
SHARDS = st.lists(st.lists(GROUPS, max_size=4), min_size=1, max_size=5).filter(any)


def manifest(shards: list[list[tuple[int, int]]]) -> Manifest:
    files = tuple(
        ShardFile(f"rows/{number}", sum(r for r, _ in groups), sum(e for _, e in groups), 0, "", tuple(groups))
        for number, groups in enumerate(shards)
    )
    rows, entries = sum(file.rows for file in files), sum(file.entries for file in files)
    return Manifest("user", "int64", "int64", 9, rows, entries, {}, {}, {}, {}, "error", (), files)


@given(SHARDS, st.data())
def test_every_row_is_in_one_share_and_shares_have_nearly_as_many_entries(
    shards: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    held = manifest(shards)
    workers = data.draw(st.integers(1, held.num_rows))
    divided = shares(held, workers)
    assert divided == shares(held, workers)
    assert len(divided) == workers
    seen = []
    means = [[Fraction(entries, rows) for rows, entries in groups] for groups in shards]
    for share in divided:
        assert share
        assert list(share) == sorted({(piece.shard, piece.group): piece for piece in share}.values())
        expected = Fraction(0)
        for piece in share:
            assert piece.first < piece.last
            rows = shards[piece.shard][piece.group][0]
            some = rows_of(piece, rows)
            assert (some is None) == (piece.last - piece.first == rows)
            taken = range(rows) if some is None else some.tolist()
            assert list(taken) == sorted(taken)
            seen += [(piece.shard, piece.group, row) for row in taken]
            expected += len(taken) * means[piece.shard][piece.group]
        assert expected <= Fraction(held.num_entries, workers) + max(map(max, filter(None, means)))
    assert sorted(seen) == [
        (shard, group, row)
        for shard, groups in enumerate(shards)
        for group, (rows, _) in enumerate(groups)
        for row in range(rows)
    ]


def test_one_worker_has_all_row_groups_whole_and_row_groups_without_a_cut_stay_whole() -> None:
    held = manifest([[(5, 100), (5, 100)], [], [(9, 300), (1, 100)]])
    assert shares(held, 1) == [(Piece(0, 0, 0, 5), Piece(0, 1, 0, 5), Piece(2, 0, 0, 9), Piece(2, 1, 0, 1))]
    assert shares(held, 2) == [
        (Piece(0, 0, 0, 5), Piece(0, 1, 0, 5), Piece(2, 0, 0, 3)),
        (Piece(2, 0, 3, 9), Piece(2, 1, 0, 1)),
    ]


def test_a_row_group_is_divided_by_a_draw_of_its_own() -> None:
    """Not by ranges of ids, nor at the same places of each row group."""
    half = {place: rows_of(Piece(*place, 0, 500), 1000) for place in [(0, 0), (0, 1), (1, 0)]}
    for place, rows in half.items():
        assert rows is not None
        assert 200 < np.count_nonzero(rows < 500) < 300
        again = rows_of(Piece(*place, 0, 500), 1000)
        assert again is not None
        assert again.tolist() == rows.tolist()
    assert len({tuple(rows.tolist()) for rows in half.values() if rows is not None}) == 3


def test_more_workers_than_rows_are_refused() -> None:
    held = manifest([[(3, 900)], [(1, 1)]])
    assert [sum(piece.last - piece.first for piece in share) for share in shares(held, 4)] == [1, 1, 1, 1]
    with pytest.raises(InputError, match="`workers` is 5 and the data set has 4 rows"):
        shares(held, 5)
