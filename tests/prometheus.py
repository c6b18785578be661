"""What the commands write as Prometheus text, of a small data set; and a strict reader of that format."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from following import add_file
from samples import Trained, command

_NAME = r"[a-z_][a-z0-9_]*"
_LABEL = rf'{_NAME}="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"({_NAME})\{{({_LABEL}(?:,{_LABEL})*)\}} (NaN|[+-]Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)")
_TOLD = re.compile(rf"# (HELP|TYPE) ({_NAME}) (\S.*)")
Labels = frozenset[tuple[str, str]]


class Metric(NamedTuple):
    """A metric as one file tells it: its type, its help, and its values by their labels."""

    kind: str
    told: str
    values: dict[Labels, float]

    def at(self, **labels: str) -> float:
        """The value whose labels include these."""
        (value,) = (value for of, value in self.values.items() if set(labels.items()) <= of)
        return value


def read(text: str) -> dict[str, Metric]:
    """The metrics of a file by their names; fails where a collector would."""
    assert text.endswith("\n")
    found: dict[str, Metric] = {}
    lines = iter(text.splitlines())
    for line in lines:
        told = _TOLD.fullmatch(line)
        if told:
            kind = _TOLD.fullmatch(next(lines))
            assert kind, line
            assert (told[1], kind[1], kind[2]) == ("HELP", "TYPE", told[2])
            assert kind[3] in ("gauge", "counter")
            assert told[2] not in found
            name = told[2]
            found[name] = Metric(kind[3], told[3], {})
            continue
        sample = _SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == name, line
        labels = frozenset(re.findall(rf'({_NAME})="((?:[^"\\]|\\.)*)"', sample[2]))
        assert labels not in found[name].values, line
        found[name].values[labels] = float(sample[3])
    return found


def of_all_commands(trained: Trained, where: Path) -> dict[str, Path]:
    """The metrics files of all commands that write one: of a log with a bad record and a new column, and of events.

    Args:
        trained: the data set whose vocabulary goes on.
        where: a directory that receives what the commands write.
    """
    files = {name: where / f"{name}.prom" for name in ("prepare", "train", "evaluate", "score", "stream")}
    ratings = pq.read_table(trained.log).slice(0, 3_000)
    ratings = pa.table({name: ratings[name].cast(pa.string()) for name in ("user", "item", "rating")}).to_pylist()
    log = where / "log.csv"
    more = ["user-00001,a-new-item,4.5", "user-00002,drama-001,five"]
    log.write_text("\n".join(["user,item,rating", *(",".join(row.values()) for row in ratings), *more]) + "\n")
    data, run = str(where / "data"), str(where / "run")
    told = {name: ["--metrics_file", str(path)] for name, path in files.items()}
    command("prepare", "--input", str(log), "--output", data, "--axis", "user", "--folds", "80,10,10",
            "--vocabulary", trained.data, *told["prepare"])  # fmt: skip
    command("train", "--data", data, "--output", run, "--hidden", "8", "--epochs", "1", "--threads", "1",
            *told["train"])  # fmt: skip
    command("evaluate", "--data", data, "--model", run, "--metrics", "rmse,mae,ndcg@10,recall@10",
            *told["evaluate"])  # fmt: skip
    # By the model that does not know the new item.
    command("score", "--input", str(log), "--model", trained.run, "--output", str(where / "scores"), "--top_k", "3",
            *told["score"])  # fmt: skip
    events = [("user-00001", "drama-001", 5.0, 1), ("user-00001", "no-such-item", 3.0, 2),
              ("user-00002", "drama-001", 1.0, 200)]  # fmt: skip
    # Ahead of the clock, so that windows end by the events alone: the first one does, the second one waits.
    add_file(where / "events", "some.csv", events, begin=int(time.time()) // 60 * 60 + 3600)
    command("stream", "--source", str(where / "events"), "--data", trained.data, "--model", trained.run, "--device",
            "cpu", "--output", str(where / "live"), "--timestamp_column", "timestamp", "--until_idle", "1ms",
            *told["stream"])  # fmt: skip
    return files
