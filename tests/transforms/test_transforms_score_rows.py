"""ScoreRows and the ModelHandler: pipelines that run, against `top_k_tables` of the same rows."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from apache_beam.yaml import main
from live_runs import add_checkpoint, begun_run
from samples import ROOT, Trained
from shuffles import carries_blocks, coders_of_shuffles, falls_back

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER
from nnsparse_stream.scoring.list_rules import ListRules
from nnsparse_stream.scoring.tables import top_k_tables
from nnsparse_stream.streaming.events import known_schema
from nnsparse_stream.transforms import AutoencoderModelHandler, ScoreRows, score_rows
from nnsparse_stream.transforms.coders import RecordBatchCoder
from nnsparse_stream.transforms.model_cache import LiveModelHandle
from nnsparse_stream.transforms.model_worker import ModelWorker

WORKER = ModelWorker("cpu")


@pytest.fixture(scope="module")
def rows(trained: Trained) -> pa.RecordBatch:
    """Twenty rows of the data set with all their ratings, by ids."""
    dataset = Dataset(trained.data)
    ids = dataset.vocabulary().ids.to_pylist()
    records = []
    for row in next(iter(dataset.shard_batches(0))).slice(0, 20).to_pylist():
        known = sorted((ids[column], value) for column, value in zip(row["columns"], row["values"], strict=True))
        records.append({"row": row["row"], "columns": [c for c, _ in known], "values": [v for _, v in known]})
    return pa.RecordBatch.from_pylist(records, schema=known_schema("string", "string"))


@pytest.fixture(scope="module")
def expected(trained: Trained) -> dict[str, list[tuple[str, int]]]:
    """Columns and ranks of those rows' lists, as a batch makes them."""
    batch = next(iter(Dataset(trained.data).shard_batches(0))).slice(0, 20)
    return lists(pa.concat_tables(top_k_tables(load_model(trained.run), [batch], 3, (0, 1, 2))))


def lists(*tables: pa.Table | pa.RecordBatch) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for table in tables:
        for one in table.select(["row_id", "column_id", "rank"]).to_pylist():
            found.setdefault(one["row_id"], []).append((one["column_id"], one["rank"]))
    return found


def blocks_of(rows: pa.RecordBatch, size: int) -> list[pa.RecordBatch]:
    return [rows.slice(start, size) for start in range(0, len(rows), size)]


def elements(pipeline: beam.Pipeline, given: list[Any], kind: Any) -> beam.PCollection:
    return pipeline | beam.Create(given, reshuffle=False) | "Typed" >> beam.Map(_same).with_output_types(kind)


def _same(element: Any) -> Any:
    return element


def equals(expected: Any, made: Any) -> Any:
    """A check of what a PCollection holds, by what `made` makes of its list."""

    def check(found: list[Any]) -> None:
        assert made(found) == expected

    return check


@pytest.mark.parametrize("data", [False, True])
def test_each_block_gives_one_of_predictions(
    trained: Trained, rows: pa.RecordBatch, expected: dict[str, Any], data: bool
) -> None:
    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        given = elements(pipeline, [*blocks_of(rows, 3), rows.slice(0, 0)], pa.RecordBatch)
        scored = given | ScoreRows(trained.run, trained.data if data else None, top_k=3, worker=WORKER)
        assert_that(scored, equals((8, expected), lambda found: (len(found), lists(*found))))
    assert scored.element_type == pa.RecordBatch
    metrics = pipeline.result.metrics().query()
    counted = {
        one.key.metric.name: one.committed for one in metrics["counters"] if one.key.metric.namespace == "scores"
    }
    assert counted == {"rows": 20, "entries_of_unknown_columns": 0}


def with_place(
    scored: tuple[str, pa.RecordBatch],
    timestamp: Any = beam.DoFn.TimestampParam,
    window: Any = beam.DoFn.WindowParam,
) -> tuple[str, list[str], int, int]:
    key, block = scored
    return key, block["row_id"].unique().to_pylist(), int(timestamp), int(window.start)


@pytest.mark.parametrize("most", [1, 7, 512])
def test_keys_windows_and_timestamps_are_kept(
    trained: Trained, rows: pa.RecordBatch, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether elements are scored while others still come, or at the bundle's end; an element may be in two windows."""
    monkeypatch.setattr(score_rows, "ROWS_AT_ONCE", most)
    given = [TimestampedValue((f"k{at}", rows.slice(at % 10, 2)), at) for at in range(12)]
    for windows, starts in (
        (FixedWindows(5), lambda at: [at // 5 * 5]),
        (SlidingWindows(10, 5), lambda at: [at // 5 * 5, at // 5 * 5 - 5]),
    ):
        expected = sorted(
            (f"k{at}", rows["row"].slice(at % 10, 2).to_pylist(), at, start) for at in range(12) for start in starts(at)
        )
        with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
            keyed = elements(pipeline, given, tuple[str, pa.RecordBatch]) | beam.WindowInto(windows)
            placed = keyed | ScoreRows(trained.run, top_k=2, worker=WORKER) | beam.Map(with_place)
            assert_that(placed, equals(expected, sorted), reify_windows=False)


def test_nothing_that_is_shuffled_after_it_falls_back_to_pickle(trained: Trained, rows: pa.RecordBatch) -> None:
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    keyed = elements(pipeline, [("a", rows)], tuple[str, pa.RecordBatch])
    _ = keyed | ScoreRows(trained.run, worker=WORKER) | "By key" >> beam.GroupByKey()
    (parts,) = coders_of_shuffles(pipeline).values()
    assert carries_blocks(parts)
    assert not falls_back(parts)
    scored = keyed | beam.Values() | "Plain" >> ScoreRows(trained.run, worker=WORKER)
    assert isinstance(beam.coders.registry.get_coder(scored.element_type), RecordBatchCoder)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (bytes, b"x", r"ScoreRows takes blocks .* elements of type <class 'bytes'>"),
        (tuple[str, int], ("a", 1), r"ScoreRows takes blocks .* elements of type Tuple"),
        (Any, ("a", 1), r"an element is tuple, not pyarrow\.RecordBatch; give its type by with_output_types"),
    ],
)
def test_elements_of_another_type_are_refused(trained: Trained, kind: Any, given: Any, message: str) -> None:
    def run() -> None:
        with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
            _ = elements(pipeline, [given], kind) | ScoreRows(trained.run, worker=WORKER)

    with pytest.raises((InputError, RuntimeError), match=message):
        run()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: ScoreRows(run, top_k=0), "`top_k` is 0; give at least 1"),
        (lambda run: ScoreRows(run, run, refresh=0), "`refresh` is 0; give seconds above 0"),
        (lambda run: ScoreRows(run, rules=ListRules(explain=2)), "`explain`: rows that are scored element by element"),
        (lambda run: ScoreRows(f"{run}/none"), "neither a training run's directory nor a checkpoint's"),
        (lambda run: AutoencoderModelHandler(run, top_k=0), "`top_k` is 0; give at least 1"),
        (lambda run: AutoencoderModelHandler(run, batch_entries=0), "`batch_entries` is 0; give at least 1"),
    ],
)
def test_what_is_wrong_is_said_when_it_is_made(trained: Trained, make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(trained.run)


def test_a_process_has_one_live_model_and_takes_newer_ones(
    trained: Trained, rows: pa.RecordBatch, tmp_path: Path
) -> None:
    run, before = begun_run(trained.run, tmp_path), {*threading.enumerate()}
    handles = [LiveModelHandle(run, trained.data, "cpu", 0.1) for _ in range(2)]
    handles.append(pickle.loads(pickle.dumps(handles[0])))
    live = handles[0].get()
    assert [handle.get() is live for handle in handles] == [True] * 3
    first = live.get().step
    add_checkpoint(run)
    while live.get().step == first:
        time.sleep(0.02)
    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        scored = elements(pipeline, [rows], pa.RecordBatch) | ScoreRows(run, trained.data, refresh=0.1, worker=WORKER)
        steps = scored | beam.FlatMap(lambda block: block["model_step"].unique().to_pylist())
        assert_that(steps, equals([first + 10], list))
    assert [thread.name for thread in {*threading.enumerate()} - before].count("live model") == 1


def test_run_inference_gives_what_a_batch_gives(
    trained: Trained, rows: pa.RecordBatch, expected: dict[str, Any]
) -> None:
    """Batches are of entries; a block that is larger than a batch is one by itself."""
    handler = AutoencoderModelHandler(trained.run, top_k=3, batch_entries=60, worker=WORKER)
    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        given = elements(pipeline, [*blocks_of(rows, 1)[:10], rows.slice(10)], pa.RecordBatch)
        scored = given | RunInference(handler).with_output_types(pa.RecordBatch)
        assert_that(scored, equals((11, expected), lambda found: (len(found), lists(*found))))
    counted = {one.key.metric.name: one.committed for one in pipeline.result.metrics().query()["counters"]}
    assert counted["num_inferences"] == 11
    sizes = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_name("batch_size"))["distributions"]
    assert sizes[0].committed.max <= 60


def test_run_inference_of_keyed_blocks(trained: Trained, rows: pa.RecordBatch, expected: dict[str, Any]) -> None:
    """Also where a block is larger than a batch, of which Beam makes an empty batch if it is told so."""
    handler = KeyedModelHandler(AutoencoderModelHandler(trained.run, top_k=3, batch_entries=60, worker=WORKER))
    given = [(name, rows.slice(start, size)) for name, start, size in (("a", 0, 15), ("b", 15, 1), ("c", 16, 4))]
    with beam.Pipeline(IN_PROCESS_RUNNER) as pipeline:
        scored = elements(pipeline, given, tuple[str, pa.RecordBatch]) | RunInference(handler)
        keys = {key: block["row"].to_pylist() for key, block in given}
        assert_that(
            scored, equals(keys, lambda found: {key: [*lists(block)] for key, block in sorted(found)}), label="keys"
        )
        assert_that(
            scored, equals(expected, lambda found: lists(*(block for _, block in sorted(found)))), label="lists"
        )


def test_update_model_path_gives_another_model(trained: Trained, rows: pa.RecordBatch, tmp_path: Path) -> None:
    run = begun_run(trained.run, tmp_path)
    handler = pickle.loads(pickle.dumps(AutoencoderModelHandler(run, top_k=3, worker=WORKER)))
    first = handler.load_model()
    assert handler.load_model() is first  # a process holds it once
    newer = add_checkpoint(run)
    steps = []
    for path in (None, newer, ""):
        handler.update_model_path(path)
        (block,) = handler.run_inference([rows], handler.load_model())
        steps += block["model_step"].unique().to_pylist()
    assert steps == [first.state["step"] + 10] * 3
    handler.update_model_path(first.url)
    (old,) = handler.run_inference([rows], handler.load_model())
    assert old["model_step"][0].as_py() == first.state["step"]
    assert lists(old) != lists(block)


def test_the_handler_is_cheap_to_ask(trained: Trained, rows: pa.RecordBatch) -> None:
    handler = AutoencoderModelHandler(trained.run, worker=ModelWorker("cpu", accelerator="type:nvidia-l4;count:1"))
    assert handler.get_num_bytes([rows, rows]) == 2 * rows.nbytes
    assert handler.get_resource_hints() == {"accelerator": "type:nvidia-l4;count:1"}
    assert handler.run_inference([], handler.load_model()) == []
    size = handler.batch_elements_kwargs()["element_size_fn"]
    assert size(rows) == size(("key", rows)) == len(rows) + len(rows["columns"].flatten())
    with pytest.raises(InputError, match="inference_args top_k: a model takes none"):
        handler.validate_inference_args({"top_k": 3})


def yaml(pipeline: str) -> None:
    text = f"pipeline:\n  transforms:{pipeline}\nproviders:\n  - include: {{{{ providers }}}}\n"
    providers = json.dumps({"providers": str(ROOT / "transforms" / "beam_providers.yaml")})
    main.run([f"--yaml_pipeline={text}", f"--runner={IN_PROCESS_RUNNER}", f"--jinja_variables={providers}"])


def test_in_beam_yaml_rows_become_rows_of_lists(
    trained: Trained, rows: pa.RecordBatch, expected: dict[str, Any], tmp_path: Path
) -> None:
    for place, extra in enumerate(("", f", data: {trained.data}, refresh: 5")):
        yaml(f"""
    - {{type: Create, config: {{elements: {json.dumps(rows.to_pylist())}}}}}
    - {{type: ScoreRows, input: Create, config: {{model: {trained.run}, top_k: 3{extra}}}}}
    - {{type: WriteToJson, input: ScoreRows, config: {{path: {tmp_path}/lists{place}}}}}
""")
        found = [json.loads(line) for line in _lines(tmp_path, f"lists{place}")]
        assert sorted(found[0]) == ["column_id", "model", "model_step", "rank", "row_id", "score"]
        assert lists(pa.Table.from_pylist(sorted(found, key=lambda one: (one["row_id"], one["rank"])))) == expected
        assert {one["model_step"] for one in found} == {read_state(trained.run).state["step"]}


def _lines(where: Path, name: str) -> Iterator[str]:
    for path in where.glob(f"{name}*"):
        yield from path.read_text().splitlines()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{row: a, columns: [b]}", "the rows have no field values, only row, columns; name it so"),
        ("{row: a, columns: [b], values: [x]}", "values a list of numbers"),
        ("{row: 1, columns: [b], values: [2.5]}", "row is to be string, columns a list of string"),
    ],
)
def test_in_beam_yaml_rows_that_do_not_fit_are_refused(trained: Trained, row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        yaml(f"""
    - {{type: Create, config: {{elements: [{row}]}}}}
    - {{type: ScoreRows, input: Create, config: {{model: {trained.run}}}}}
""")
