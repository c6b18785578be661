"""ScoreRatings: top-K lists of rows, or predictions at given pairs, to Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics

from nnsparse_stream.data.dataset import read_features
from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.manifest import ColumnsFile
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.scoring.blocks import RowCounts, ShardBlocks, pair_block, shard_block, unknown_pairs
from nnsparse_stream.scoring.files import FEATURES, score_schema, write_scores
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.storage.files import join
from nnsparse_stream.transforms.list_shards import ListShards
from nnsparse_stream.transforms.model_cache import CheckpointHandle, VocabularyHandle
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.read_ids import candidate_columns
from nnsparse_stream.transforms.windows import refuse_windows


class KnownColumns(beam.PTransform):
    """Keeps the ratings whose column is in the model's vocabulary; the others cannot be its input.

    Args:
        checkpoint: URL of a checkpoint's directory.
        axis: "user" or "item", the axis of the model's rows.

    Returns:
        Three PCollections: `ratings`, blocks; `unknown`, how many ratings were left out, one number a block; and
        `rows`, blocks with the one column row, the rows that lost a rating: one that lost all is still to be scored.
    """

    def __init__(self, checkpoint: str, axis: str) -> None:
        super().__init__()
        self._filter = _KnownColumns(VocabularyHandle(checkpoint), axis)

    def expand(self, ratings: beam.PCollection[pa.RecordBatch]) -> beam.pvalue.DoOutputsTuple:
        """Applies the transform."""
        return ratings | beam.ParDo(self._filter).with_output_types(pa.RecordBatch).with_outputs(
            "unknown", "rows", main="ratings"
        )


class _KnownColumns(beam.DoFn):
    def __init__(self, vocabulary: VocabularyHandle, axis: str) -> None:
        self._vocabulary, self._axis = vocabulary, axis
        self._counter = Metrics.counter("ratings", "unknown_column")

    def process(self, ratings: pa.RecordBatch) -> Iterator[pa.RecordBatch | beam.pvalue.TaggedOutput]:
        column = ratings["item" if self._axis == "user" else "user"]
        known = self._vocabulary.get().encode(column) >= 0
        unknown = int(len(known) - known.sum())
        self._counter.inc(unknown)
        yield ratings.filter(pa.array(known)) if unknown else ratings
        yield beam.pvalue.TaggedOutput("unknown", unknown)
        if unknown:
            rows = ratings[self._axis].filter(pa.array(~known)).unique()
            yield beam.pvalue.TaggedOutput("rows", pa.record_batch([rows], names=["row"]))


class KeyPairs(beam.PTransform):
    """Blocks of pairs, keyed by the shard of their row, as `ScoreRatings` takes them.

    Args:
        axis: "user" or "item", the axis of the rows.
        num_shards: of the rows that they are to be joined with.
    """

    def __init__(self, axis: str, num_shards: int) -> None:
        super().__init__()
        self._axis, self._num_shards = axis, num_shards

    def expand(self, pairs: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        """Applies the transform."""
        return pairs | beam.FlatMap(_key_pairs, self._axis, self._num_shards).with_output_types(
            tuple[int, pa.RecordBatch]
        )


def _key_pairs(block: pa.RecordBatch, axis: str, num_shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    yield from partition(pair_block(block, axis), "row", num_shards)


class ShardsToScore(beam.PTransform):
    """The shards of a data set as `ScoreRatings` takes them: the root of a pipeline, or of a branch of one.

    Args:
        data: URL of the data set.
    """

    def __init__(self, data: str) -> None:
        super().__init__()
        self._data = data

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[tuple[int, pa.RecordBatch]]:
        """Applies the transform to the pipeline."""
        return begin | ListShards(self._data) | beam.Map(_key_shard).with_output_types(tuple[int, pa.RecordBatch])


def _key_shard(shard: Shard) -> tuple[int, pa.RecordBatch]:
    return shard.number, shard_block(shard)


class ScoreRatings(beam.PTransform):
    """Scores shard by shard, and writes `part-*.parquet` under deterministic names.

    Takes a PCollection of (shard, block): blocks of rows as a shard holds them or, from `ShardsToScore`, that say where
    these lie; blocks of rows that may have no rating (the one column row); blocks of rows that are to be listed, from
    `KeySelected`; and blocks of pairs (columns row and column). All are of the same shard's rows.

    Args:
        checkpoint: URL of a checkpoint's directory.
        output: URL of the directory that receives the files.
        num_shards: number of shards.
        top_k: how many columns a row; None to predict the pairs instead.
        folds: the folds of a row's ratings that the model sees.
        rules: what lists hold.
        candidates: the columns that may be listed, from `Candidates`; all where None. A worker holds them all.
        only_selected: list only rows that are selected.
        features: of rows that come as blocks, a file for each shard in `_features/` of the output, as
            `nnsparse_stream.data.assembly.write_features` writes them; the caller removes them.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one dictionary a shard: `path` (relative to the output), `rows` (of the file), `bytes`; of
        lists `lists` and `cold`, how many there are, and how many of these are of rows without a rating; of pairs
        `unknown_rows` and `unknown_columns`, lists of one number: how many are of such rows, and of columns that the
        vocabulary does not hold.

    Raises:
        InputError: when it is applied: the blocks are cut into windows; when it runs: reasons are asked for, and the
            model cannot explain its scores.
    """

    def __init__(
        self,
        checkpoint: str,
        output: str,
        num_shards: int,
        *,
        top_k: int | None,
        folds: Sequence[int],
        rules: ListRules = ListRules(),  # noqa: B008 (immutable)
        candidates: beam.PCollection[pa.RecordBatch] | None = None,
        only_selected: bool = False,
        features: Sequence[ColumnsFile] = (),
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        what = (top_k, tuple(folds), rules, only_selected, list(features))
        self._score = _ScoreShard(CheckpointHandle(checkpoint, worker.device), output, num_shards, *what)
        self._candidates, self._worker = candidates, worker

    def expand(self, blocks: beam.PCollection[tuple[int, pa.RecordBatch]]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        refuse_windows(self, blocks)
        by_shard = blocks | "By shard" >> beam.GroupByKey()
        if self._candidates is None:
            return by_shard | "Score" >> self._worker.runs(self._score)
        return by_shard | "Score" >> self._worker.runs(self._score, beam.pvalue.AsList(self._candidates))


class _ScoreShard(beam.DoFn):
    def __init__(
        self,
        checkpoint: CheckpointHandle,
        output: str,
        num_shards: int,
        top_k: int | None,
        folds: tuple[int, ...],
        rules: ListRules,
        only_selected: bool,
        features: list[ColumnsFile],
    ) -> None:
        self._checkpoint, self._output, self._num_shards = checkpoint, output, num_shards
        self._top_k, self._folds, self._rules, self._only_selected = top_k, folds, rules, only_selected
        self._features = features

    def process(
        self, keyed: tuple[int, Iterable[pa.RecordBatch]], candidates: list[pa.RecordBatch] | None = None
    ) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.scoring.tables import pair_table, top_k_tables

        shard, blocks = keyed
        checkpoint, state = self._checkpoint.get(), self._checkpoint.get().state
        features = read_features(join(self._output, FEATURES), self._features[shard]) if self._features else None
        held = ShardBlocks.of(list(blocks), self._only_selected, features)
        kinds = (state["row_id_type"], state["column_id_type"])
        place = (self._output, shard, self._num_shards)
        if self._top_k is not None:
            counts, columns = RowCounts(), candidate_columns(candidates)
            rows = counts.counted(held.rows)
            tables = top_k_tables(checkpoint, rows, self._top_k, self._folds, self._rules, columns)
            schema = score_schema(*kinds, ranked=True, explained=self._rules.explain > 0)
            written = write_scores(*place, tables, schema)
            yield {**written, "lists": counts.rows, "cold": counts.cold}
        elif held.pairs is not None:
            table = pair_table(checkpoint, held.rows, held.pairs, self._folds, held.features)
            written = write_scores(*place, [table], score_schema(*kinds, ranked=False))
            yield {**written, **unknown_pairs([table])}
