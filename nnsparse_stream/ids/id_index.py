"""Where an id is among many: by a table over the range of integers, or by sorted hashes; in memory or memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.hashing import hash_ids

#: There is a table where the range of integer ids is at most so many times their number, or this.
_DENSE_RANGE, _SMALL_RANGE = 8, 1 << 20


@dataclass(frozen=True)
class IdIndex:
    """Distinct ids, and what finds the position of one; the arrays may be views of a file's pages.

    Attributes:
        ids: int64, string or large_string (n,), distinct, without nulls.
        hashes: uint64 (n,), `hash_ids` of the ids.
        low: the least id, where there is a table.
        table: int32, the position of each integer from `low` to the largest id, -1 where that is no id; empty where
            ids are strings, or integers too far apart.
        keys: uint64 (n,), the hashes in ascending order; empty where there is a table.
        order: int32, the positions of the ids whose hashes are `keys`.
    """

    ids: pa.Array
    hashes: np.ndarray
    low: int
    table: np.ndarray
    keys: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, ids: pa.Array) -> IdIndex:
        """The index of ids in memory.

        Raises:
            InputError: an id occurs twice.
        """
        hashes = hash_ids(ids)
        positions = np.arange(len(ids), dtype=np.int32)
        none = np.empty(0, dtype=np.int32)
        if pa.types.is_int64(ids.type) and len(ids):
            values = ids.to_numpy()
            low, high = int(values.min()), int(values.max())
            if is_dense(low, high, len(ids)):
                table = fill_table(values - low, positions, high - low + 1)
                return cls(ids, hashes, low, table, none.astype(np.uint64), none)
        keys, order = sort_hashes(hashes, positions, ids)
        return cls(ids, hashes, 0, none, keys, order)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Positions of ids.

        Args:
            ids: (n,), without nulls; int64 where the index' own are, else string.

        Returns:
            int32 (n,), -1 where the index has no such id.
        """
        if len(self.ids) == 0:
            return np.full(len(ids), -1, dtype=np.int32)
        if len(self.table):
            return self._look_up(ids.to_numpy())
        if pa.types.is_int64(ids.type):
            return self._search(ids)
        # Ids repeat: each distinct one is hashed and compared once.
        encoded = ids.dictionary_encode()
        return self._search(encoded.dictionary)[encoded.indices.to_numpy()]

    def _look_up(self, ids: np.ndarray) -> np.ndarray:
        low, high = self.low, self.low + len(self.table) - 1
        if len(ids) and ids.min() >= low and ids.max() <= high:
            return self.table[ids - low]
        inside = (ids >= low) & (ids <= high)
        return np.where(inside, self.table[np.where(inside, ids - low, 0)], np.int32(-1))

    def _search(self, ids: pa.Array) -> np.ndarray:
        found = np.full(len(ids), -1, dtype=np.int32)
        hashes = hash_ids(ids)
        # In ascending order, for then neighbours are searched near each other: four times as fast in 10 million keys.
        pending = np.argsort(hashes)
        hashes = hashes[pending]
        position = np.searchsorted(self.keys, hashes)
        # Equal hashes lie side by side: the second round and later ones are for collisions of 64-bit hashes only.
        while len(pending):
            inside = position < len(self.keys)
            inside[inside] = self.keys[position[inside]] == hashes[inside]
            pending, position, hashes = pending[inside], position[inside], hashes[inside]
            candidates = self.order[position]
            if pa.types.is_int64(ids.type):
                found[pending] = candidates  # integers of equal hashes are equal: `mix` is a bijection
                break
            equal = _equal(ids.take(pa.array(pending)), self.ids.take(pa.array(candidates)))
            found[pending[equal]] = candidates[equal]
            pending, position, hashes = pending[~equal], position[~equal] + 1, hashes[~equal]
        return found


def is_dense(low: int, high: int, ids: int) -> bool:
    """Whether a table is worth its size, for so many ids from low to high."""
    return high - low < max(_DENSE_RANGE * ids, _SMALL_RANGE)


def fill_table(offsets: np.ndarray, positions: np.ndarray, size: int) -> np.ndarray:
    """A table, or a piece of one, of int32 (size,).

    Args:
        offsets: integers (n,), the places in the table; each in [0, size).
        positions: int32 (n,), what is to stand there. -1 stands everywhere else.

    Raises:
        InputError: an offset occurs twice.
    """
    table = np.full(size, -1, dtype=np.int32)
    table[offsets] = positions
    if np.count_nonzero(table >= 0) != len(offsets):
        raise _repeated()
    return table


def sort_hashes(hashes: np.ndarray, positions: np.ndarray, ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Sorts hashes, and the positions of their ids with them.

    Args:
        hashes: uint64 (n,), of all the ids that could have these hashes.
        positions: int32 (n,), ascending.
        ids: what the positions are in.

    Raises:
        InputError: an id occurs twice.
    """
    order = np.argsort(hashes, kind="stable")
    keys, positions = hashes[order], positions[order]
    equal = np.flatnonzero(keys[1:] == keys[:-1])
    if len(equal):
        alike = ids.take(pa.array(positions[np.unique(np.concatenate([equal, equal + 1]))]))
        if pc.count_distinct(alike).as_py() != len(alike):
            raise _repeated()
    return keys, positions


def _repeated() -> InputError:
    return InputError("a vocabulary holds an id twice: its file is damaged")


def _equal(ids: pa.Array, others: pa.Array) -> np.ndarray:
    return pc.equal(ids, others.cast(ids.type)).to_numpy(zero_copy_only=False)
