import json

import pytest

from nnsparse_stream.pipelines import cli, demo


@pytest.fixture
def small(monkeypatch):
    """The demo's way on a sample that takes seconds."""
    for name, value in {"_USERS": 300, "_ITEMS": 80, "_RATINGS": 15_000}.items():
        monkeypatch.setattr(demo, name, value)


def test_the_demo_goes_the_whole_way(small, tmp_path, capsys, monkeypatch):
    output = tmp_path / "demo"
    assert cli.main(["demo", "--output", str(output)]) == 0
    rmse = json.loads((output / "report.json").read_text())["rmse"]
    assert (
        rmse["best reachable (the noise)"]
        < rmse["autoencoder (this model)"]
        < rmse["row and column biases"]
        < rmse["global mean"]
    )
    printed = capsys.readouterr().out
    for name in ("ratings.parquet", "dataset", "run", "evaluation.json", "scores", "report.html"):
        assert (output / name).exists()
        assert str(output / name) in printed
    page = (output / "report.html").read_text()
    assert page.count("<svg") == 2
    assert page.count("<h3>user-") == 3

    monkeypatch.setattr(demo, "_noise_floor", lambda *_: 1 / 0)
    assert cli.main(["demo", "--output", str(tmp_path / "failed")]) == 1
    assert not (tmp_path / "failed").exists()
    assert cli.main(["demo", "--output", str(output)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err


def test_of_a_demo_that_is_stopped_nothing_stays(small, tmp_path, capsys, monkeypatch):
    def stopped(args, beam_flags):
        raise cli.StoppedError("stopped; --resume goes on from there")

    monkeypatch.setattr("nnsparse_stream.pipelines.train.run", stopped)
    assert cli.main(["demo", "--output", str(tmp_path / "demo")]) == 1
    said = capsys.readouterr()
    assert said.err == "nnsparse-stream demo: interrupted\n"
    assert "--resume" not in said.out
    assert not (tmp_path / "demo").exists()
