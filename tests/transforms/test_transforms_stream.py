"""Steps of a stream's job that no engine is needed for: places, coders, and that nothing kept or sent is pickled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.pipeline_context import PipelineContext
from samples import Trained
from shuffles import all_parts, falls_back

from nnsparse_stream.streaming.base_rows import BaseRows
from nnsparse_stream.streaming.event_format import EventFormat
from nnsparse_stream.streaming.events import event_schema, known_schema
from nnsparse_stream.streaming.open_source import open_source
from nnsparse_stream.streaming.shard_state import Flush
from nnsparse_stream.streaming.windows import Windows
from nnsparse_stream.transforms import coders
from nnsparse_stream.transforms.event_times import LAST, beam_time
from nnsparse_stream.transforms.read_events import Place, PlaceCoder, PlaceTracker, _Watermarks
from nnsparse_stream.transforms.stream import StreamJob, build_stream


def test_a_place_moves_on_until_the_rest_is_given_away() -> None:
    tracker = PlaceTracker(Place("0"))
    assert tracker.try_claim(Place("5", idle_since=1.5))
    assert tracker.try_split(0.5) is None
    with pytest.raises(ValueError, match="not read to its end"):
        tracker.check_done()
    assert tracker.try_split(0) == (Place("5", 1.5, ended=True), Place("5", 1.5))
    assert tracker.check_done()
    assert not tracker.try_claim(Place("9"))
    assert tracker.current_restriction().position == "5"
    assert tracker.try_split(0) is None


def test_a_partition_that_has_ended_is_done_and_has_no_rest() -> None:
    tracker = PlaceTracker(Place("0"))
    assert tracker.try_claim(Place("3", 1.0, ended=True))
    assert tracker.check_done()
    assert tracker.try_split(0) is None


@pytest.mark.parametrize("place", [Place("ü"), Place("{}", 1.25, ended=True)])
def test_places_round_trip(place: Place) -> None:
    assert PlaceCoder().decode(PlaceCoder().encode(place)) == place


def test_flushes_round_trip() -> None:
    rows = pa.record_batch([["ü"], [[1, 2]], [[0.5, None]]], schema=known_schema("string", "int64"))
    pairs = pa.record_batch([["ü"], [2], [None], [-5]], schema=event_schema("string", "int64"))
    flush = Flush(-1_000_000, 3, 1, 7, rows, pairs, 2)
    assert coders.FlushCoder().decode(coders.FlushCoder().encode(flush)) == flush


def test_times_outside_of_beams_clock_are_the_nearest_in_it() -> None:
    assert beam_time((1 << 63) - 1).micros == LAST
    assert beam_time(-(1 << 63)).micros > -(1 << 63)
    assert beam_time(5_000_000).micros == 5_000_000


def test_nothing_that_a_stream_sends_or_keeps_is_pickled(trained: Trained, tmp_path: Path) -> None:
    coders.register()
    pipeline = beam.Pipeline("apache_beam.runners.portability.fn_api_runner.FnApiRunner")
    (tmp_path / "in").mkdir()
    source = open_source(str(tmp_path / "in"), EventFormat("user", "string", "string"))
    windows = Windows(5_000_000, 60_000_000)
    shards = BaseRows(trained.data).num_shards
    job = StreamJob(trained.data, trained.run, str(tmp_path), windows, shards, "string", "string", until_idle=1.0)
    build_stream(pipeline, source, job)
    built = pipeline.to_runner_api(default_environment=beam.transforms.environments.EmbeddedPythonEnvironment())
    found = dict(_sent_and_kept(built.components))
    assert {name.rpartition("/")[2] for name in found} >= {"Read", "Keep", "Complete", "GroupByKey"}
    context = PipelineContext(built.components)
    for name, ids in found.items():
        assert ids, name
        for coder in ids:
            assert not falls_back(all_parts(context.coders.get_by_id(coder))), name
    assert not falls_back([_Watermarks().estimator_state_coder()])


def _sent_and_kept(components: Any) -> Iterator[tuple[str, list[str]]]:
    """The coders of what each step is sent by key, keeps, or reads as a restriction."""
    for transform in components.transforms.values():
        inputs = [components.pcollections[name].coder_id for name in transform.inputs.values()]
        if transform.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn:
            yield transform.unique_name, inputs
        if transform.spec.urn != common_urns.primitives.PAR_DO.urn:
            continue
        payload = api.ParDoPayload.FromString(transform.spec.payload)
        if payload.restriction_coder_id:
            yield transform.unique_name, [payload.restriction_coder_id, *inputs]
        if payload.state_specs:
            kept = [_state_coder(spec) for spec in payload.state_specs.values()]
            timers = [timer.timer_family_coder_id for timer in payload.timer_family_specs.values()]
            yield transform.unique_name, [*inputs, *kept, *timers]


def _state_coder(spec: Any) -> str:
    return spec.bag_spec.element_coder_id or spec.read_modify_write_spec.coder_id
