"""Which fold a rating is in, and which shard a row: hashes of ids that are the same on every engine and machine."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

FOLDS = ("train", "validation", "test")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: uint64 (n,) -> uint64 (n,), a bijection that spreads every bit over all bits."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def hash_ids(ids: pa.Array) -> np.ndarray:
    """Hashes ids to 64 bits.

    Args:
        ids: int64 or string, without nulls.

    Returns:
        uint64 (n,). Integers: mix(id + golden ratio), so that id 0 does not hash to 0. Strings: mix of the 64-bit
        FNV-1a hash of the UTF-8 bytes.
    """
    if pa.types.is_int64(ids.type):
        return mix(ids.to_numpy().view(np.uint64) + _GOLDEN)
    offsets = np.frombuffer(ids.buffers()[1], dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    data = np.frombuffer(ids.buffers()[2] or b"", dtype=np.uint8)
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


def assign_folds(user_hash: np.ndarray, item_hash: np.ndarray, percent: tuple[float, ...], seed: int) -> np.ndarray:
    """Assigns each rating to a fold by its user, its item and the seed alone.

    The axis, the order, the file and the machine do not matter, so a user model and an item model are trained and
    judged on the same ratings.

    Args:
        user_hash, item_hash: uint64 (n,), from `hash_ids`.
        percent: shares of train, validation and test; they sum to 100.
        seed: any integer.

    Returns:
        uint8 (n,): 0 train, 1 validation, 2 test.
    """
    salt = mix(np.array([seed % 2**64], dtype=np.uint64) + _GOLDEN)
    mixed = mix(mix(user_hash ^ salt) + item_hash)
    share = (mixed >> np.uint64(11)).astype(np.float64) * (100 * 2.0**-53)
    return np.searchsorted(np.cumsum(percent)[:-1], share, side="right").astype(np.uint8)
