"""Hashes of ids: the same on every engine and machine. Folds, shards and parts of vocabularies go by them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

#: Bytes of the longest id that is accepted: hashing a block takes a step for each byte of its longest id.
LONGEST_ID = 1024
GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
#: Values that fit in a core's cache together with a copy of them.
_CACHED = 1 << 15


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: uint64 (n,) -> uint64 (n,), a bijection that spreads every bit over all bits."""
    mixed = values.copy()
    shifted = np.empty(min(_CACHED, len(mixed)), dtype=np.uint64)
    # Piece by piece, so that what one operation has written is in the processor's cache for the next: twice as fast.
    for start in range(0, len(mixed), _CACHED):
        piece = mixed[start : start + _CACHED]
        scratch = shifted[: len(piece)]
        for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
            np.right_shift(piece, np.uint64(shift), out=scratch)
            piece ^= scratch
            piece *= factor
        np.right_shift(piece, np.uint64(31), out=scratch)
        piece ^= scratch
    return mixed


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Hashes ids to 64 bits.

    Args:
        ids: int64, string or large_string, without nulls.

    Returns:
        uint64 (n,). Integers: mix(id + golden ratio), so that id 0 does not hash to 0. Strings: mix of the 64-bit
        FNV-1a hash of the UTF-8 bytes.
    """
    if pa.types.is_int64(ids.type):
        return mix(ids.to_numpy().view(np.uint64) + GOLDEN_RATIO)
    offsets, data = string_buffers(ids)
    hashes = np.full(len(ids), _FNV_OFFSET)
    lengths = np.diff(offsets)
    # One step per byte position over all ids that are long enough: the order by length keeps those a prefix.
    by_length = np.argsort(-lengths, kind="stable")
    starts = offsets[:-1][by_length]
    longer = len(ids) - np.searchsorted(np.sort(lengths), np.arange(lengths.max(initial=0)), side="right")
    for position, count in enumerate(longer):
        hashes[:count] = (hashes[:count] ^ data[starts[:count] + position]) * _FNV_PRIME
    result = np.empty_like(hashes)
    result[by_length] = hashes
    return mix(result)


def string_buffers(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """What an array of type string or large_string (n,) is made of.

    Returns:
        int64 (n + 1,), where each string begins and ends; and uint8, the bytes, of which these are places.
    """
    width = np.int64 if pa.types.is_large_string(ids.type) else np.int32
    _, offsets, data = ids.buffers()
    places = np.frombuffer(offsets or b"", dtype=width)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    return places, np.frombuffer(data or b"", dtype=np.uint8)
