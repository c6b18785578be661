"""ScoreRows: rows with what is known of them to lists, element by element; and the ModelHandler for RunInference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler
from apache_beam.typehints.typehints import TupleConstraint
from apache_beam.utils.windowed_value import WindowedValue

from nnsparse_stream.errors import InputError
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.transforms.model_cache import CheckpointHandle, LiveModelHandle
from nnsparse_stream.transforms.model_worker import ModelWorker

if TYPE_CHECKING:
    from nnsparse_stream.checkpoints.checkpoint import Checkpoint
    from nnsparse_stream.streaming.live_model import Current
    from nnsparse_stream.streaming.live_scores import Scored

#: What is scored at once: so many rows, or rows and their entries.
ROWS_AT_ONCE, ENTRIES_AT_ONCE = 512, 1 << 18


class ScoreRows(beam.PTransform):
    """Lists of rows, for what is known of them in the element: no files, no state, and any windows.

    Takes a PCollection of blocks of rows, `nnsparse_stream.streaming.events.known_schema`; or of (key, block), whose
    keys pass through. Each gives one block of predictions, with the element's windows, timestamp and pane: the elements
    of a bundle wait for each other, and are scored by one call, but they do not mix. A block may be of one row.

    `score` reads whole shards instead, and gives the same lists for the same ratings: both rank by
    `nnsparse_stream.scoring.tables.top_k_tables`.

    Args:
        model: URL of a run or of a checkpoint. With `data` also of a pointer, see
            `nnsparse_stream.streaming.live_model.LiveModel`.
        data: URL of a data set whose vocabulary the model has, or extends. With it the newest model is looked for
            while the job runs; without, the model is the one that lies there when the transform is made.
        top_k: columns a row.
        refresh: seconds between two looks for a newer model.
        rules: what lists hold; without reasons.
        worker: what the step asks for.

    Returns:
        A PCollection of blocks with the columns row_id, column_id, score, rank, model_step and model, see
        `nnsparse_stream.streaming.live_scores.scored_schema`, by row, then rank; or of (key, block).

    Raises:
        InputError: when it is made, there is no model; when it is applied, the elements are of another type; when it
            runs, a block is of another schema, or there is no model that can be used with the data set.
    """

    def __init__(
        self,
        model: str,
        data: str | None = None,
        *,
        top_k: int = 10,
        refresh: float = 30.0,
        rules: ListRules = ListRules(),  # noqa: B008 (immutable)
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        _check_lists(top_k, rules)
        if refresh <= 0:
            raise InputError(f"`refresh` is {refresh}; give seconds above 0")
        self._handle: CheckpointHandle | LiveModelHandle
        if data is None:
            self._handle = CheckpointHandle(_checkpoint_url(model), worker.device)
        else:
            self._handle = LiveModelHandle(model, data, worker.device, refresh)
        self._top_k, self._rules, self._worker = top_k, rules, worker

    def expand(self, rows: beam.PCollection) -> beam.PCollection:
        """Applies the transform."""
        kind = rows.element_type
        keyed = isinstance(kind, TupleConstraint) and len(kind.tuple_types) == 2
        block = kind.tuple_types[1] if keyed else kind
        if block not in (pa.RecordBatch, Any, beam.typehints.Any):
            raise InputError(
                f"ScoreRows takes blocks (pyarrow.RecordBatch) of rows, or (key, block), and the input has elements of "
                f"type {kind}; give it by with_output_types"
            )
        given = beam.typehints.Tuple[kind.tuple_types[0], pa.RecordBatch] if keyed else pa.RecordBatch
        do = _ScoreRows(self._handle, self._top_k, self._rules, keyed)
        return rows | self._worker.runs(do).with_output_types(given)


class ScoresTogether(beam.DoFn):
    """Scores the elements of a bundle by one call, up to a bound; each one's result has its windows and timestamp.

    A subclass says which rows an element has, and how elements are scored.

    Args:
        model: gives the model, one a process.
    """

    def __init__(self, model: CheckpointHandle | LiveModelHandle) -> None:
        self._model = model
        self._waiting: list[tuple[Any, Any]] = []
        self._rows = self._entries = 0
        self._scored = Metrics.counter("scores", "rows")
        self._step = Metrics.gauge("scores", "model_step")

    @abstractmethod
    def rows_of(self, element: Any) -> pa.RecordBatch:
        """The rows of an element, `nnsparse_stream.streaming.events.known_schema`."""

    @abstractmethod
    def results(self, elements: list[Any], current: Current) -> Iterable[Any]:
        """Scores elements.

        Args:
            elements: at least one.
            current: the model.

        Returns:
            One result for each element.
        """

    def start_bundle(self) -> None:
        """Forgets what waited in a bundle that failed."""
        self._waiting, self._rows, self._entries = [], 0, 0

    def process(
        self,
        element: Any,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[WindowedValue]:
        """Keeps an element, and scores those that wait where they are enough."""
        rows = self.rows_of(element)
        # The result's, but for its value.
        self._waiting.append((element, WindowedValue(None, timestamp, (window,), pane)))
        self._rows += len(rows)
        self._entries += entries_of(rows)
        if self._rows >= ROWS_AT_ONCE or self._entries >= ENTRIES_AT_ONCE:
            yield from self._score()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Scores what waits."""
        yield from self._score()

    def _score(self) -> Iterator[WindowedValue]:
        waiting, rows = self._waiting, self._rows
        self.start_bundle()
        if not waiting:
            return
        current = _current(self._model)
        self._step.set(current.step)
        results = self.results([element for element, _ in waiting], current)
        for (_, result), value in zip(waiting, results, strict=True):
            yield result.with_value(value)
        self._scored.inc(rows)


class _ScoreRows(ScoresTogether):
    def __init__(self, model: CheckpointHandle | LiveModelHandle, top_k: int, rules: ListRules, keyed: bool) -> None:
        super().__init__(model)
        self._top_k, self._rules, self._keyed = top_k, rules, keyed
        self._unknown = Metrics.counter("scores", "entries_of_unknown_columns")

    def rows_of(self, element: Any) -> pa.RecordBatch:
        rows = element[1] if self._keyed else element
        if not isinstance(rows, pa.RecordBatch):
            wanted = "(key, pyarrow.RecordBatch)" if self._keyed else "pyarrow.RecordBatch"
            raise InputError(f"an element is {type(rows).__name__}, not {wanted}; give its type by with_output_types")
        return rows

    def results(self, elements: list[Any], current: Current) -> Iterator[Any]:
        from nnsparse_stream.streaming.live_scores import score_rows

        scored = score_rows([self.rows_of(element) for element in elements], current, self._top_k, self._rules)
        for element, one in zip(elements, scored, strict=True):
            self._unknown.inc(one.unknown)
            yield (element[0], _block(one)) if self._keyed else _block(one)


class AutoencoderModelHandler(ModelHandler[pa.RecordBatch, pa.RecordBatch, "Checkpoint"]):
    """For Beam's `RunInference`: blocks of rows in, blocks of predictions out, as `ScoreRows` takes and gives them.

    The rows of a batch are scored by one call; a batch is of so many rows and entries, and not of so many elements. For
    keyed elements wrap it in Beam's `KeyedModelHandler`. The model is exchanged by RunInference's own means
    (`update_model_path`: what a side input names is read anew); where the job is to look for newer models by itself,
    take `ScoreRows`. Beam knows no type of what RunInference gives: name it by `with_output_types(pa.RecordBatch)`, or
    what is shuffled after it is pickled.

    Args:
        model: URL of a run, which stands for the checkpoint that `score` would take when a worker begins, or of a
            checkpoint.
        top_k: columns a row.
        rules: what lists hold; without reasons.
        batch_entries: rows and known entries of a batch, together.
        worker: what the step asks for.

    Raises:
        InputError: `top_k` or `batch_entries` is below 1, or reasons are asked for.
    """

    def __init__(
        self,
        model: str,
        *,
        top_k: int = 10,
        rules: ListRules = ListRules(),  # noqa: B008 (immutable)
        batch_entries: int = ENTRIES_AT_ONCE,
        worker: ModelWorker = ModelWorker(),  # noqa: B008 (immutable)
    ) -> None:
        super().__init__()
        _check_lists(top_k, rules)
        if batch_entries < 1:
            raise InputError(f"`batch_entries` is {batch_entries}; give at least 1")
        self._url, self._top_k, self._rules = model, top_k, rules
        self._batch_entries, self._worker = batch_entries, worker

    def load_model(self) -> Checkpoint:
        """Reads the model; what this process holds of it already is shared."""
        return CheckpointHandle(_checkpoint_url(self._url), self._worker.device).get()

    def run_inference(
        self, batch: Sequence[pa.RecordBatch], model: Checkpoint, inference_args: dict[str, Any] | None = None
    ) -> list[pa.RecordBatch]:
        """Predictions, one block for each of the batch.

        Raises:
            InputError: a block is of another schema.
        """
        from nnsparse_stream.streaming.live_scores import score_rows

        return [_block(one) for one in score_rows(list(batch), _in_use(model), self._top_k, self._rules)]

    def get_num_bytes(self, batch: Sequence[pa.RecordBatch]) -> int:
        """Bytes of the blocks of a batch, without writing them."""
        return sum(block.nbytes for block in batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Batches of one size: what makes the model slow are rows and entries, not elements."""
        most = self._batch_entries
        # Beam gives an empty batch before an element that is larger than a batch; so none is.
        size = {"element_size_fn": lambda element: min(_size(element), most)}
        return {"min_batch_size": most, "max_batch_size": most, **size}

    def update_model_path(self, model_path: str | None = None) -> None:
        """Takes another model from now on; `load_model` reads it."""
        self._url = model_path or self._url

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuses them: there are none.

        Raises:
            InputError: some are given.
        """
        if inference_args:
            raise InputError(f"inference_args {', '.join(inference_args)}: a model takes none")

    def get_resource_hints(self) -> dict[str, str]:
        """What the step asks for."""
        return self._worker.hints()


def entries_of(rows: pa.RecordBatch) -> int:
    """The known entries of a block of rows."""
    return len(rows["columns"].flatten()) if "columns" in rows.schema.names else 0


def _size(element: Any) -> int:
    """Rows and entries of a block, or of that of (key, block), which Beam asks for where elements are keyed."""
    rows = element[1] if isinstance(element, tuple) else element
    return len(rows) + entries_of(rows)


def _check_lists(top_k: int, rules: ListRules) -> None:
    if top_k < 1:
        raise InputError(f"`top_k` is {top_k}; give at least 1")
    if rules.explain:
        raise InputError("`explain`: rows that are scored element by element get no reasons; use `score`")


def _checkpoint_url(model: str) -> str:
    """The directory of the checkpoint that stands for a run now."""
    from nnsparse_stream.checkpoints.state import read_state

    return read_state(model).url


def _current(handle: CheckpointHandle | LiveModelHandle) -> Current:
    return handle.get().get() if isinstance(handle, LiveModelHandle) else _in_use(handle.get())


def _in_use(checkpoint: Checkpoint) -> Current:
    from nnsparse_stream.streaming.live_model import Current, fingerprint_of

    return Current(checkpoint, checkpoint.state["step"], fingerprint_of(checkpoint))


def _block(scored: Scored) -> pa.RecordBatch:
    """Scores as one block."""
    blocks = scored.table.combine_chunks().to_batches()
    return blocks[0] if blocks else pa.RecordBatch.from_pylist([], schema=scored.table.schema)
