"""RankBlend and BlendPairs: top-K lists, and predictions at given pairs, by several models.

The models may be of either axis; the rows of the result are those of the first. Nothing here asks for a tensor of
rows x columns: the ranking goes tile by tile, and pairs are joined by user and item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from nnsparse_stream.data.grouping import partition
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shards import Shard
from nnsparse_stream.scoring.blocks import (
    RowCounts,
    ShardBlocks,
    aligned_shards,
    pair_block,
    shard_block,
    unknown_pairs,
)
from nnsparse_stream.scoring.combination import Combination
from nnsparse_stream.scoring.files import codes_file, codes_schema, score_schema, write_codes, write_scores
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.transforms.list_shards import ListAligned, ListShards, with_position
from nnsparse_stream.transforms.model_cache import CheckpointHandle, ColumnPredictorHandle
from nnsparse_stream.transforms.model_worker import ModelWorker
from nnsparse_stream.transforms.read_ids import candidate_columns
from nnsparse_stream.transforms.windows import refuse_windows


class _Member(NamedTuple):
    """A model of a blend: its checkpoint; and of its data set the URL, the axis, the types of ids, the shards."""

    checkpoint: CheckpointHandle
    data: str
    axis: str
    row_id_type: str
    column_id_type: str
    num_shards: int


def _members(checkpoints: Sequence[str], data: Sequence[str], device: str) -> list[_Member]:
    members = []
    for checkpoint, url in zip(checkpoints, data, strict=True):
        held = Manifest.read(url)
        kinds = (held.axis, held.row_id_type, held.column_id_type)
        members.append(_Member(CheckpointHandle(checkpoint, device), url, *kinds, len(held.shards)))
    return members


class RankBlend(beam.PTransform):
    """The best columns of each row of the first model's data set: the root of a pipeline, or of a branch.

    First the rows of models of the other axis are encoded, to files in `_codes/` of the output, which the caller
    removes; then each shard is ranked, where a worker holds all models and these codes.

    Args:
        checkpoints: URLs of checkpoints' directories; those of the first one's axis have its vocabulary.
        data: URLs of their data sets, in the same order; those of the first one's axis have as many shards.
        combination: of the models' predictions.
        output: URL of the directory that receives the files.
        top_k: how many columns a row.
        folds: the folds of a row's ratings that the models see.
        rules: what lists hold; without reasons.
        candidates: the columns that may be listed, from `Candidates`; all where None. A worker holds them all.
        selected: the rows that are to be listed, from `KeySelected`; all where None.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one dictionary a shard, as that of `ScoreRatings`.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        data: Sequence[str],
        combination: Combination,
        output: str,
        *,
        top_k: int,
        folds: Sequence[int],
        rules: ListRules = ListRules(),  # noqa: B008 (immutable)
        candidates: beam.PCollection[pa.RecordBatch] | None = None,
        selected: beam.PCollection[tuple[int, pa.RecordBatch]] | None = None,
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._worker = worker
        self._checkpoints, self._data, self._combination = checkpoints, data, combination
        self._output, self._top_k, self._folds = output, top_k, tuple(folds)
        self._rules, self._candidates, self._selected = rules, candidates, selected

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        members = _members(self._checkpoints, self._data, self._worker.device)
        others = {
            position: begin | f"Shards of model {position}" >> ListShards(member.data)
            for position, member in enumerate(members)
            if member.axis != members[0].axis
        }
        # A side input: no shard is ranked before all codes are written.
        encoded: beam.pvalue.AsList[str] | list[str] = []
        if others:
            encode = _EncodeShard(members, self._output, self._folds)
            encoded = beam.pvalue.AsList(with_position(others) | "Encode" >> self._worker.runs(encode))
        shards = begin | "Shards" >> ListAligned([m.data for m in members if m.axis == members[0].axis])
        blocks = [shards | "Key shards" >> beam.Map(_key_aligned).with_output_types(tuple[int, pa.RecordBatch])]
        if self._selected is not None:
            blocks.append(self._selected)
        side = () if self._candidates is None else (beam.pvalue.AsList(self._candidates),)
        what = (self._top_k, self._folds, self._rules, self._selected is not None)
        rank = _RankShard(members, self._combination, self._output, *what)
        by_shard = blocks | "Blocks" >> beam.Flatten() | "By shard" >> beam.GroupByKey()
        return by_shard | "Rank" >> self._worker.runs(rank, encoded, *side)


def _key_aligned(shards: list[Shard]) -> tuple[int, pa.RecordBatch]:
    return shards[0].number, shard_block(*shards)


class _EncodeShard(beam.DoFn):
    def __init__(self, members: list[_Member], output: str, folds: tuple[int, ...]) -> None:
        self._members, self._output, self._folds = members, output, folds

    def process(self, place: tuple[int, Shard]) -> Iterator[str]:
        from nnsparse_stream.scoring.predictors import encoded_tables, factor_model

        position, shard = place
        member = self._members[position]
        model = factor_model(member.checkpoint.get())
        url = codes_file(self._output, position, shard.number, member.num_shards)
        tables = encoded_tables(model, shard.batches(), self._folds)
        write_codes(url, tables, codes_schema(member.row_id_type, model.code_units))
        yield url


class _RankShard(beam.DoFn):
    def __init__(
        self,
        members: list[_Member],
        combination: Combination,
        output: str,
        top_k: int,
        folds: tuple[int, ...],
        rules: ListRules,
        only_selected: bool,
    ) -> None:
        self._members, self._combination, self._output = members, combination, output
        self._top_k, self._folds, self._rules, self._only_selected = top_k, folds, rules, only_selected
        first = members[0]
        self._columns = {
            position: ColumnPredictorHandle(
                member.checkpoint,
                first.checkpoint,
                [codes_file(output, position, shard, member.num_shards) for shard in range(member.num_shards)],
            )
            for position, member in enumerate(members)
            if member.axis != first.axis
        }

    def process(
        self,
        keyed: tuple[int, Iterable[pa.RecordBatch]],
        _encoded: list[str],
        candidates: list[pa.RecordBatch] | None = None,
    ) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.scoring.predictors import RowPredictor
        from nnsparse_stream.scoring.tables import blended_top_k_tables

        first, blocks = self._members[0], list(keyed[1])
        aligned, counts = aligned_shards(blocks), RowCounts()
        others = [
            self._columns[position].get()
            if position in self._columns
            else RowPredictor(member.checkpoint.get().model, aligned.pop(0).batches(), self._folds)
            for position, member in enumerate(self._members[1:], 1)
        ]
        rows = counts.counted(ShardBlocks.of(blocks, self._only_selected).rows)
        what = (self._top_k, self._folds, self._rules, candidate_columns(candidates))
        tables = blended_top_k_tables(first.checkpoint.get(), others, self._combination, rows, *what)
        schema = score_schema(first.row_id_type, first.column_id_type, ranked=True)
        written = write_scores(self._output, keyed[0], first.num_shards, tables, schema)
        yield {**written, "lists": counts.rows, "cold": counts.cold}


class BlendPairs(beam.PTransform):
    """Predicts given pairs with each model as if it were alone, joins by user and item, and writes these combined.

    Takes a PCollection of blocks of pairs (columns user and item). The models' data sets need not have the same rows,
    columns or shards.

    Args:
        checkpoints: URLs of checkpoints' directories.
        data: URLs of their data sets, in the same order.
        combination: of the models' predictions.
        output: URL of the directory that receives the files.
        folds: the folds of a row's ratings that the models see.
        worker: what the steps that run a model ask for.

    Returns:
        A PCollection of one dictionary a file, as that of `ScoreRatings`; there is a file even where there is no pair.

    Raises:
        InputError: when it is applied: the pairs are cut into windows.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        data: Sequence[str],
        combination: Combination,
        output: str,
        *,
        folds: Sequence[int],
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        self._checkpoints, self._data, self._combination = checkpoints, data, combination
        self._output, self._folds, self._worker = output, tuple(folds), worker

    def expand(self, pairs: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform."""
        refuse_windows(self, pairs)
        members = _members(self._checkpoints, self._data, self._worker.device)
        first = members[0]
        kinds = (first.row_id_type, first.column_id_type)
        keyed = tuple[int, pa.RecordBatch]
        placed = tuple[tuple[int, int], pa.RecordBatch]
        shards = [
            pairs.pipeline
            | f"Shards of model {position}" >> ListShards(member.data)
            | f"Position {position}" >> beam.Map(_key_shard, position).with_output_types(placed)
            for position, member in enumerate(members)
        ]
        predicted = (
            [pairs | "For each model" >> beam.ParDo(_KeyPairs(members)).with_output_types(placed), *shards]
            | "Rows and pairs" >> beam.Flatten()
            | "By model and shard" >> beam.GroupByKey()
            | "Predict" >> self._worker.runs(_PredictPairs(members, self._folds)).with_output_types(keyed)
        )
        none = pairs.pipeline | "No pairs" >> beam.Create([(0, _no_predictions(*kinds))]).with_output_types(keyed)
        return (
            (predicted, none)
            | beam.Flatten()
            | "By row" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_pairs, self._combination, self._output, first.num_shards, kinds)
        )


def _key_shard(shard: Shard, position: int) -> tuple[tuple[int, int], pa.RecordBatch]:
    return (position, shard.number), shard_block(shard)


class _KeyPairs(beam.DoFn):
    def __init__(self, members: list[_Member]) -> None:
        self._places = [(member.axis, member.num_shards) for member in members]

    def process(self, block: pa.RecordBatch) -> Iterator[tuple[tuple[int, int], pa.RecordBatch]]:
        for position, (axis, num_shards) in enumerate(self._places):
            for shard, part in partition(pair_block(block, axis), "row", num_shards):
                yield (position, shard), part


class _PredictPairs(beam.DoFn):
    """Predictions of one model for a shard of its rows, cut by the rows of the first model."""

    def __init__(self, members: list[_Member], folds: tuple[int, ...]) -> None:
        self._members, self._folds = members, folds

    def process(self, keyed: tuple[tuple[int, int], Iterable[pa.RecordBatch]]) -> Iterator[tuple[int, pa.RecordBatch]]:
        from nnsparse_stream.scoring.blending import predicted_pairs
        from nnsparse_stream.scoring.tables import pair_table

        (position, _), blocks = keyed
        held = ShardBlocks.of(list(blocks))
        if held.pairs is None:
            return
        member, first = self._members[position], self._members[0]
        scored = pair_table(member.checkpoint.get(), held.rows, held.pairs, self._folds, held.features)
        block = predicted_pairs(scored, member.axis != first.axis, position)
        yield from partition(block, "row", first.num_shards)


def _no_predictions(row_type: str, column_type: str) -> pa.RecordBatch:
    kinds = {"row": row_type, "column": column_type, "row_known": "bool", "column_known": "bool"}
    kinds |= {"prediction": "float32", "model": "uint8"}
    return pa.record_batch({name: pa.array([], type=pa.type_for_alias(kind)) for name, kind in kinds.items()})


def _write_pairs(
    keyed: tuple[int, Iterable[pa.RecordBatch]],
    combination: Combination,
    output: str,
    num_shards: int,
    kinds: tuple[str, str],
) -> dict[str, Any]:
    from nnsparse_stream.scoring.blending import blend_pairs

    shard, blocks = keyed[0], list(keyed[1])
    tables = [blend_pairs(blocks, combination)]
    written = write_scores(output, shard, num_shards, tables, score_schema(*kinds, ranked=False))
    predicted = pa.Table.from_batches(blocks)
    by_model = [predicted.filter(pc.equal(predicted["model"], model)) for model in range(len(combination.weights))]
    return {**written, **unknown_pairs(by_model)}
