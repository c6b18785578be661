"""A run's metrics as an events file for TensorBoard; needs the `tensorboard` extra."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from nnsparse_stream.errors import InputError

#: Where it lies in a run: TensorBoard looks for this name. It is written anew after each epoch, on any URL.
EVENTS_FILE = "tensorboard/events.out.tfevents.0.run"


def check_installed() -> None:
    """Refuses to go on without the package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError as error:
        raise InputError("`tensorboard` needs a package: pip install 'nnsparse-stream[tensorboard]'") from error


def events(history: list[dict[str, Any]]) -> bytes:
    """The events file of a run.

    Args:
        history: the metrics of each epoch, as metrics.jsonl holds them. Each number of theirs is a scalar at the
            epoch's last step, nested ones as `validation/rmse`; those of rounds at the round, as `round/seconds`.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = io.BytesIO()
    writer = RecordWriter(file)
    started = history[0]["time"] if history else 0.0
    writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
    told = [({"round": one}, one["time"], one["round"]) for metrics in history for one in metrics.get("rounds", ())]
    for metrics, wall_time, step in [*told, *((metrics, metrics["time"], metrics["step"]) for metrics in history)]:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(metrics)]
        event = Event(wall_time=wall_time, step=step, summary=Summary(value=values))
        writer.write(event.SerializeToString())
    return file.getvalue()


def _scalars(metrics: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "time"):
            yield prefix + name, float(value)
