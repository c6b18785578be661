"""Copies of entries: of one fold, and of pieces in another order."""

import numpy as np

from nnsparse_stream.kernels.cpu.copies import gather, keep_fold

RANDOM = np.random.default_rng(0)


def test_the_entries_of_a_fold_are_kept_row_by_row():
    offsets = np.array([3, 5, 5, 9, 10], dtype=np.int32)  # as of a slice of rows: not from 0 on
    folds = np.array([0, 2, 0, 0, 1, 0, 2], dtype=np.uint8)
    columns, values = np.arange(7, dtype=np.int32), np.arange(7, dtype=np.float32) / 2
    out = np.full(4, -1, np.int32), np.full(4, -1, np.float32)
    assert keep_fold(folds, 0, offsets, columns, values, out).tolist() == [1, 0, 3, 0]
    assert out[0].tolist() == [0, 2, 3, 5]
    assert out[1].tolist() == [0, 1, 1.5, 2.5]


def test_pieces_come_one_after_the_other():
    columns, values = RANDOM.integers(0, 99, 500).astype(np.int32), RANDOM.random(500).astype(np.float32)
    lengths = RANDOM.integers(0, 40, 30)
    starts = RANDOM.integers(0, 460, 30)
    entries = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])
    out = np.full(len(entries), -1, np.int32), np.full(len(entries), -1, np.float32)
    gather(columns, values, starts, lengths, out)
    assert (out[0] == columns[entries]).all()
    assert (out[1] == values[entries]).all()
