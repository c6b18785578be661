"""Files of scores, and of the codes that a blend keeps meanwhile: their names, schemas, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nnsparse_stream.storage import files as storage

#: Where, in the output, codes lie while a blend is ranked.
CODES = "_codes"
#: Where, in the output, the features of rows lie while raw ratings are scored.
FEATURES = "_features"


def score_schema(row_type: str, column_type: str, ranked: bool, explained: bool = False) -> pa.Schema:
    """The schema of scores.

    Args:
        row_type: of ids, "int64" or "string".
        column_type: the same.
        ranked: whether they are lists, which have `rank`.
        explained: whether these have `reasons`, lists of `id` (a known column) and `contribution`.
    """
    column = pa.type_for_alias(column_type)
    fields = [("row_id", pa.type_for_alias(row_type)), ("column_id", column), ("score", pa.float32())]
    if ranked:
        fields.append(("rank", pa.int32()))
    if explained:
        fields.append(("reasons", pa.list_(pa.struct([("id", column), ("contribution", pa.float32())]))))
    return pa.schema(fields)


def write_scores(
    output: str, shard: int, num_shards: int, tables: Iterable[pa.Table], schema: pa.Schema
) -> dict[str, Any]:
    """Writes a shard's scores, whole, and returns `path` (relative to the output), `rows` and `bytes` of the file."""
    name = f"part-{shard:05d}-of-{num_shards:05d}.parquet"
    return {"path": name, **write_tables(storage.join(output, name), tables, schema)}


def write_tables(url: str, tables: Iterable[pa.Table], schema: pa.Schema) -> dict[str, int]:
    """Writes tables as one Parquet file, whole, and returns `rows` and `bytes` of it."""
    sink = pa.BufferOutputStream()
    count = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in tables:
            count += len(table)
            writer.write_table(table.select(schema.names).cast(schema))
    data = bytes(sink.getvalue())
    storage.write_file(url, data)
    return {"rows": count, "bytes": len(data)}


def codes_file(output: str, position: int, shard: int, num_shards: int) -> str:
    """URL of the codes of a shard's rows, of the blend's model at a position."""
    return storage.join(output, CODES, f"model-{position}", f"part-{shard:05d}-of-{num_shards:05d}.parquet")


def codes_schema(row_type: str, units: int) -> pa.Schema:
    """Columns row (the id), fallback (float32, its score of unknown columns) and code (float32, a list of `units`)."""
    return pa.schema(
        [("row", pa.type_for_alias(row_type)), ("fallback", pa.float32()), ("code", pa.list_(pa.float32(), units))]
    )


def write_codes(url: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Writes a shard's codes, whole."""
    sink = pa.BufferOutputStream()
    # Codes hardly compress, and no two are equal.
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=False) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    storage.write_file(url, bytes(sink.getvalue()))


def read_codes(url: str) -> pa.Table:
    """Reads what `write_codes` wrote."""
    # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
    return pq.ParquetFile(pa.BufferReader(storage.read_file(url))).read(use_threads=False)
