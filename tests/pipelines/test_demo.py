import json

import pytest

from nnsparse_stream.pipelines import cli, demo, demo_stream


@pytest.fixture
def small(monkeypatch):
    """The demo's way on a sample that takes seconds."""
    for name, value in {"_USERS": 300, "_ITEMS": 80, "_RATINGS": 15_000}.items():
        monkeypatch.setattr(demo, name, value)


def test_the_demo_goes_the_whole_way(small, tmp_path, capsys, monkeypatch):
    output = tmp_path / "demo"
    assert cli.main(["demo", "--output", str(output)]) == 0
    figures = json.loads((output / "report.json").read_text())
    rmse, judged = figures["rmse"], figures["lists"]
    assert (
        rmse["best reachable (the noise)"]
        < rmse["autoencoder (this model)"]
        < rmse["row and column biases"]
        < rmse["global mean"]
    )
    # So small a sample teaches lists nothing that popularity does not know; the figures are what counts here.
    evaluation = json.loads((output / "ranking.json").read_text())
    baselines = {baseline["name"]: baseline["metrics"] for baseline in evaluation["baselines"]}
    assert judged == {**baselines, "ranking (this model)": evaluation["metrics"]}
    assert set(baselines) == {"popularity"}
    assert judged["popularity"].keys() == evaluation["metrics"].keys() == {"ndcg@100", "recall@20"}
    printed = capsys.readouterr().out
    predictions, lists = ("dataset", "run", "evaluation.json"), ("liked", "ranking", "ranking.json", "lists")
    for name in ("ratings.parquet", *predictions, *lists, "report.html"):
        assert (output / name).exists()
        assert str(output / name) in printed
    assert printed.count("because of") == 3 * 10
    page = (output / "report.html").read_text()
    assert page.count("<svg") == 3 + 3
    assert page.count("<path") > 30

    monkeypatch.setattr("nnsparse_stream.pipelines.train.run", lambda *_: 1 / 0)
    assert cli.main(["demo", "--output", str(tmp_path / "failed")]) == 1
    assert not (tmp_path / "failed").exists()
    assert cli.main(["demo", "--output", str(output)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err


def test_lists_follow_a_stream(tmp_path, capsys, monkeypatch):
    small = {"_USERS": 300, "_ITEMS": 80, "_RATINGS": 9_000, "_LIVE_USERS": 20, "_EVENTS": 200, "_SECONDS": 8.0}
    for name, value in {
        **small,
        "_EPOCHS": ("1", "3"),
        "_WINDOW": "1s",
        "_UNTIL_IDLE": "3s",
        "_REFRESH": "100ms",
    }.items():
        monkeypatch.setattr(demo_stream, name, value)
    output = tmp_path / "demo"
    assert cli.main(["demo", "--stream", "--output", str(output)]) == 0
    figures = json.loads((output / "report.json").read_text())
    assert len(figures["steps"]) == 2  # the model was exchanged
    assert 0 < figures["events"] < 200  # what is not liked is none
    assert figures["lists"] >= 20
    assert 0 < figures["latency_p50"] <= figures["latency_p99"]
    assert figures["windows"] == len(list((output / "live").glob("windows/*/_complete.json")))
    page = (output / "report.html").read_text()
    assert page.count("<svg") == 1
    assert page.count("<table") == 1 + 3
    assert str(output / "report.html") in capsys.readouterr().out
    assert cli.main(["demo", "--stream", "--output", str(output)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert cli.main(["demo", "--stream", "--runner", "DirectRunner", "--output", str(output)]) == 2
    assert "--stream runs in this process" in capsys.readouterr().err


def test_of_a_demo_that_is_stopped_nothing_stays(small, tmp_path, capsys, monkeypatch):
    def stopped(args, beam_flags):
        raise cli.StoppedError("stopped; --resume goes on from there")

    monkeypatch.setattr("nnsparse_stream.pipelines.train.run", stopped)
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 1
    said = capsys.readouterr()
    assert said.err == "nnsparse-stream demo: interrupted\n"
    assert "--resume" not in said.out
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "name", ["dataset/notes.txt", "run/checkpoints/step-000000001/mine.txt", "lists/2026/part.csv"]
)
def test_what_is_not_the_demos_is_never_removed(tmp_path, capsys, name):
    (tmp_path / "report.json").write_text('{"kind": "nnsparse-stream demo"}')
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("mine")
    assert cli.main(["demo", "--output", str(tmp_path), "--overwrite"]) == 2
    assert f"not of an earlier output ({name})" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
