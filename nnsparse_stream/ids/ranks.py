"""Ids in ascending order, and the rank of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def rank_ids(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Distinct ids in ascending order (strings by their UTF-8 bytes), and the rank of each id, int64 (n,)."""
    if pa.types.is_int64(ids.type) and len(ids):
        values = ids.to_numpy()
        low, high = int(values.min()), int(values.max())
        if high - low < 2 * len(ids):  # a table of the range takes less time than one of hashes
            places = values - low
            occurs = np.zeros(high - low + 1, dtype=bool)
            occurs[places] = True
            return pa.array(np.flatnonzero(occurs) + low), (np.cumsum(occurs) - 1)[places]
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), ranks[encoded.indices.to_numpy()]
