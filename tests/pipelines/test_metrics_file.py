"""`--metrics_file`: Prometheus text that says what the commands did."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from prometheus import Metric, of_all_commands, read
from samples import Trained

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.metrics_file import METRICS, MetricsFile, Sample, prometheus_text

#: Of the collector: one name, one file of each command.
_PREFIX = "nnsparse_stream_"


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def written(trained: Trained, where: Path) -> dict[str, dict[str, Metric]]:
    return {
        name: {metric.removeprefix(_PREFIX): of for metric, of in read(path.read_text()).items()}
        for name, path in of_all_commands(trained, where).items()
    }


def test_files_of_all_commands_have_one_type_and_help_a_name_and_the_commands_label(written):
    seen: set[str] = set()
    for command, metrics in written.items():
        assert abs(metrics["written_timestamp_seconds"].at(command=command) - time.time()) < 3600
        assert metrics["duration_seconds"].at(command=command) > 0
        for name, metric in metrics.items():
            assert (metric.kind, metric.told) == METRICS[name]
            assert (metric.kind == "counter") == name.endswith("_total")
            assert all(("command", command) in labels for labels in metric.values)
        seen |= set(metrics)
    assert seen == set(METRICS)


def test_prepare_tells_records_columns_and_ratings(written, where):
    found, manifest = written["prepare"], Manifest.read(str(where / "data"))
    assert {outcome: found["records"].at(outcome=outcome) for outcome in ("read", "bad", "duplicate", "filtered")} == {
        "read": 3_002, "bad": 1, "duplicate": 0, "filtered": 0,
    }  # fmt: skip
    assert found["new_columns"].at() == 1
    assert (found["columns"].at(), found["rows"].at()) == (manifest.num_columns, manifest.num_rows)
    assert {fold: found["entries"].at(fold=fold) for fold in manifest.fold_entries} == manifest.fold_entries
    assert {name: found["rating"].at(statistic=name) for name in manifest.ratings} == manifest.ratings


def test_train_tells_the_last_epoch(written, where):
    found, run = written["train"], json.loads((where / "run" / "run.json").read_text())
    assert (found["epochs"].at(), found["steps"].at()) == (run["epochs"], run["steps"])
    assert found["validation"].at(metric="rmse") == run["metrics"]["validation"]["rmse"]


def test_evaluate_tells_the_model_beside_its_baselines(written):
    quality = written["evaluate"]["quality"]
    assert all(0 < quality.at(of=of, metric="rmse", fold="test") < 3 for of in ("model", "global mean"))


def test_score_and_stream_tell_what_the_model_does_not_know(written):
    score, stream = written["score"], written["stream"]
    assert (score["known_entries"].at(), score["unknown_entries"].at()) == (3_001, 1)
    assert (score["records"].at(outcome="read"), score["records"].at(outcome="bad")) == (3_002, 1)
    assert stream["events_total"].at() == 3
    assert stream["unknown_entries_total"].at() == 1
    assert stream["known_entries_total"].at() > stream["scored_rows_total"].at() == 1
    assert stream["waiting_events"].at() == 1


def test_a_stream_tells_while_it_goes_on(trained, tmp_path, monkeypatch):
    from nnsparse_stream.pipelines import stream

    told = []
    monkeypatch.setattr(stream, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(MetricsFile, "write", lambda self, samples: told.append(list(samples)))
    (tmp_path / "events").mkdir()
    flags = ["--source", str(tmp_path / "events"), "--data", trained.data, "--model", trained.run, "--device", "cpu",
             "--output", str(tmp_path / "live"), "--until_idle", "1ms"]  # fmt: skip
    assert cli.main(["stream", *flags]) == 0
    assert len(told) > 1  # and not only at its end


def test_a_file_that_holds_something_else_is_refused_before_the_work(trained, tmp_path, capsys):
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    for argv in (
        ["prepare", "--input", trained.log, "--output", str(tmp_path / "out"), "--axis", "user"],
        ["train", "--data", trained.data, "--output", str(tmp_path / "out")],
        ["evaluate", "--data", trained.data, "--model", trained.run],
        ["score", "--data", trained.data, "--model", trained.run, "--output", str(tmp_path / "out")],
        ["stream", "--source", str(tmp_path), "--data", trained.data, "--model", trained.run,
         "--output", str(tmp_path.parent / "out")],
    ):  # fmt: skip
        assert cli.main([*argv, "--metrics_file", str(other)]) == 2
        assert "--metrics_file" in capsys.readouterr().err
    assert other.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_what_is_not_of_one_run_in_reach_has_no_metrics(trained, tmp_path, capsys):
    flags = ["--data", trained.data, "--output", str(tmp_path / "out"), "--metrics_file", str(tmp_path / "m.prom")]
    assert cli.main(["train", "--grid", "grid.json", *flags]) == 2
    assert "--metrics_file tells of one run" in capsys.readouterr().err
    flags += ["--model", trained.run, "--source", str(tmp_path), "--runner=PrismRunner"]
    assert cli.main(["stream", *flags]) == 2
    assert "--metrics_file is for a stream in this process" in capsys.readouterr().err


def test_a_later_run_replaces_the_file_and_leaves_nothing_beside_it(tmp_path):
    for value in (1, 2):
        MetricsFile(str(tmp_path / "m.prom"), "score").write([Sample("rows", value)])
    assert [path.name for path in tmp_path.iterdir()] == ["m.prom"]
    assert read((tmp_path / "m.prom").read_text())[f"{_PREFIX}rows"].at(command="score") == 2


def test_labels_are_escaped_and_numbers_written_as_prometheus_reads_them():
    text = prometheus_text(
        "x",
        [
            Sample("quality", math.inf, {"of": 'a "b"\\\nc'}),
            Sample("quality", math.nan, {"of": "d"}),
            Sample("rows", None),
            Sample("quality", 1e-7, {"of": "e"}),
        ],
    )
    quality = read(text)[f"{_PREFIX}quality"]
    assert quality.at(of=r"a \"b\"\\\nc") == math.inf
    assert math.isnan(quality.at(of="d"))
    assert quality.at(of="e") == 1e-7
    assert "rows" not in text


def full_disk(url, data):
    raise InputError(f"{url} cannot be written: No space left on device")


def test_what_is_written_stays_where_its_metrics_cannot_be(trained, tmp_path, monkeypatch, capsys):
    out, scores, prom = tmp_path / "out", tmp_path / "scores", str(tmp_path / "m.prom")
    monkeypatch.setattr(MetricsFile, "write", lambda self, samples: full_disk(prom, b""))
    flags = ["--axis", "user", "--metrics_file", prom]
    assert cli.main(["prepare", "--input", trained.log, "--output", str(out), *flags]) == 2
    score = ["score", "--data", trained.data, "--model", trained.run, "--output", str(scores)]
    assert cli.main([*score, "--metrics_file", prom]) == 2
    assert capsys.readouterr().err.count("No space left on device") == 2
    assert (out / "manifest.json").exists()
    assert (scores / "_manifest.json").exists()


def test_a_stream_goes_on_where_its_metrics_cannot_be_written(trained, tmp_path, monkeypatch, caplog):
    from nnsparse_stream.pipelines import stream

    monkeypatch.setattr(stream, "TELL_SECONDS", 0.0)
    flags = ["--source", str(tmp_path / "events"), "--data", trained.data, "--model", trained.run, "--device", "cpu",
             "--output", str(tmp_path / "live"), "--until_idle", "1ms"]  # fmt: skip
    (tmp_path / "events").mkdir()
    writes = iter([full_disk])
    whole = MetricsFile.write
    monkeypatch.setattr(MetricsFile, "write", lambda self, samples: next(writes, lambda *_: whole(self, ()))("m", b""))
    assert cli.main(["stream", *flags]) == 0
    assert "no metrics: m cannot be written" in caplog.text


def test_a_worker_cannot_write_to_a_path_of_the_launcher(tmp_path):
    described = ["--runner=DataflowRunner", "--template_location=gs://my-bucket/job", "--project=p", "--region=r"]
    with pytest.raises(InputError, match="is a path of this machine"):
        MetricsFile(str(tmp_path / "m.prom"), "score", described)
