"""`--metrics_file`: what a command did, as Prometheus text, for an exporter that collects such files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.running import is_only_described
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.local_paths import local_path

#: What all names begin with.
PREFIX = "nnsparse_stream_"
#: Of each metric: its type and what it says. A name has one type and one help in all commands' files, since a collector
#: refuses two of one name that differ. Counters are of commands without end, and begin anew with the process.
METRICS = {
    "written_timestamp_seconds": ("gauge", "Unix time at which the command wrote these figures: it had ended well."),
    "duration_seconds": ("gauge", "How long the command had run."),
    "records": ("gauge", "Records of the rating files by outcome: read, bad (dead letters), filtered, duplicate."),
    "rows": ("gauge", "Rows of the data set."),
    "columns": ("gauge", "Columns of the data set."),
    "new_columns": ("gauge", "Columns that the vocabulary which goes on did not have; all where none goes on."),
    "entries": ("gauge", "Entries of the data set by fold."),
    "rating": ("gauge", "Statistics of the ratings: min and max of all, mean and std of the training fold."),
    "epochs": ("gauge", "Epochs that the run has trained."),
    "steps": ("gauge", "Minibatches that the run has trained."),
    "validation": ("gauge", "Metrics of the validation fold after the last epoch."),
    "ratings_per_second": ("gauge", "Training ratings a second in the last epoch."),
    "quality": ("gauge", "Metrics of the judged fold, of the model and of each baseline."),
    "judged_entries": ("gauge", "Entries that were judged."),
    "scores": ("gauge", "Scores that were written."),
    "known_entries": ("gauge", "Known ratings of the rows that were to be scored."),
    "unknown_entries": ("gauge", "Of these, ratings of columns that the model does not know: no input of it."),
    "rows_without_ratings": ("gauge", "Rows with a list of which the model knows no rating."),
    "events_total": ("counter", "Events that were read."),
    "late_events_total": ("counter", "Events that came after the end of their window."),
    "dead_letters_total": ("counter", "Records that are no events."),
    "scored_rows_total": ("counter", "Rows that were scored."),
    "known_entries_total": ("counter", "Known ratings of the rows that were scored."),
    "unknown_entries_total": ("counter", "Of these, ratings of columns that the model does not know: no input of it."),
    "window_files_total": ("counter", "Files of scores that were written."),
    "windows_total": ("counter", "Windows that are complete."),
    "waiting_events": ("gauge", "Events of windows that have not ended."),
    "lag_seconds": ("gauge", "From the last event of the newest window that was written to its writing."),
    "model_step": ("gauge", "Step of the model that made the newest scores."),
}


class Sample(NamedTuple):
    """One value of a metric.

    Attributes:
        name: one of METRICS.
        value: the number; None where it is not known, and not written.
        labels: beside the command's.
    """

    name: str
    value: float | None
    labels: dict[str, str] = {}  # noqa: RUF012 (nobody changes it)


class MetricsFile:
    """The file of one command.

    Args:
        url: where it is to be; None where nobody asked for one.
        command: the command's name, a label of all its metrics.
        beam_flags: where a job is only described, a worker writes the file.

    Raises:
        InputError: it cannot be written, or something else is there; or a worker could not write it there.
    """

    def __init__(self, url: str | None, command: str, beam_flags: Sequence[str] = ()) -> None:
        self._url, self._command, self._began = url, command, time.time()
        if url is None:
            return
        if is_only_described(list(beam_flags)) and local_path(url) is not None:
            raise InputError(
                f"`metrics_file` {url} is a path of this machine, and a worker of the job is to write it: name the URL "
                "of a store"
            )
        storage.check_writable(url)
        if storage.exists(url) and not storage.read_file(url).startswith(f"# HELP {PREFIX}".encode()):
            raise InputError(f"`metrics_file` {url} exists and holds no metrics of a command; name another file")

    def write(self, samples: Iterable[Sample]) -> None:
        """Writes the file whole: who reads it sees the old one or the new one."""
        if self._url is not None:
            of_all = [
                Sample("written_timestamp_seconds", round(time.time(), 3)),
                Sample("duration_seconds", round(time.time() - self._began, 3)),
            ]
            storage.write_file(self._url, prometheus_text(self._command, [*of_all, *samples]).encode())


def prometheus_text(command: str, samples: Iterable[Sample]) -> str:
    """Samples in Prometheus' text format, those of one name together, in the order of METRICS."""
    by_name: dict[str, list[Sample]] = {name: [] for name in METRICS}
    for sample in samples:
        if sample.value is not None:
            by_name[sample.name].append(sample)
    lines = []
    for name, of_name in by_name.items():
        if of_name:
            kind, told = METRICS[name]
            lines += [f"# HELP {PREFIX}{name} {told}", f"# TYPE {PREFIX}{name} {kind}"]
            lines += [f"{PREFIX}{name}{_labels(command, one)} {_number(one.value)}" for one in of_name]
    return "\n".join([*lines, ""])


def _labels(command: str, sample: Sample) -> str:
    return (
        "{" + ",".join(f'{name}="{_escaped(of)}"' for name, of in {"command": command, **sample.labels}.items()) + "}"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float | None) -> str:
    number = float(value)  # type: ignore[arg-type]  # None is left out, and NumPy's own floats say so in their repr
    if math.isfinite(number):
        return str(int(number)) if number.is_integer() else repr(number)
    return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
