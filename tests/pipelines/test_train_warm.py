"""`train --init`: what it prints and writes, in this process, in rounds, by an engine, and in a grid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import assert_same_run
from samples import Trained, command

from nnsparse_stream.checkpoints.state import read_state
from nnsparse_stream.pipelines import cli
from nnsparse_stream.ratings.synthetic import make_ratings

_SMALL = ("--hidden", "4", "--threads", "1")
_HERE = "--runner=DirectRunner"


class Nights(NamedTuple):
    """Yesterday's data set and run, and today's data set, which has more columns."""

    yesterday: Trained
    today: str


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    where = tmp_path_factory.mktemp("nights")
    ratings = make_ratings(120, 40, 3_000, 0.5, seed=4).ratings
    log, data, run, today = (str(where / name) for name in ("log.parquet", "yesterday", "run", "today"))
    flags = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "2"]
    known = pa.array(sorted(set(ratings["item"].to_pylist()))[::2])
    pq.write_table(ratings.filter(pa.compute.is_in(ratings["item"], value_set=known)), log)
    command("prepare", "--input", log, "--output", data, *flags)
    pq.write_table(ratings, log)
    command("prepare", "--input", log, "--output", today, *flags, "--vocabulary", data)
    command("train", "--data", data, "--output", run, "--epochs", "2", *_SMALL)
    return Nights(Trained(log, data, run), today)


def train(nights: Nights, output: Path, *flags: str) -> int:
    return cli.main(["train", "--data", nights.today, "--output", str(output), "--epochs", "2", *_SMALL, *flags])


def line_of(nights: Nights, state: str) -> str:
    earlier, manifest = read_state(nights.yesterday.run), json.loads(Path(nights.today, "manifest.json").read_text())
    known = earlier.config.num_columns
    new = manifest["num_columns"] - known
    assert new > 0
    return f"from {earlier.url}: {known} columns are known, {new} new; the optimiser's state {state}"


def test_it_tells_what_it_begins_from_and_is_judged_and_scored(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    # The model of yesterday has no lists of new columns; the message names the way.
    scores = ["--output", str(tmp_path / "lists")]
    assert cli.main(["score", "--data", nights.today, "--model", nights.yesterday.run, *scores]) == 2
    assert "train on it (with `init`, from this model)" in capsys.readouterr().err
    assert train(nights, run, "--init", nights.yesterday.run) == 0
    said, begun = capsys.readouterr().out.splitlines()[:2]
    # As many of the entries are new as of the items.
    rows = re.fullmatch(
        r"recipe cfn with learning_rate 0\.2\d+, batch_rows (\d+), epochs 2, hidden \[4], decay_rows 35; on cpu", said
    )
    assert rows, said
    assert 17 <= int(rows[1]) <= 19
    assert begun == line_of(nights, "begins anew")
    assert json.loads((run / "run.json").read_text())["init"]["url"] == read_state(nights.yesterday.run).url
    assert cli.main(["evaluate", "--data", nights.today, "--model", str(run)]) == 0
    assert cli.main(["score", "--data", nights.today, "--model", str(run), *scores]) == 0


def test_with_steps_of_its_own_the_optimiser_goes_on(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(nights, tmp_path / "run", "--init", nights.yesterday.run, "--batch_rows", "32") == 0
    said = capsys.readouterr().out.splitlines()[:2]
    assert said == ["recipe cfn with batch_rows 32, epochs 2, hidden [4]; on cpu", line_of(nights, "goes on")]


def test_a_stopped_run_is_resumed_by_the_same_command(nights: Nights, tmp_path: Path) -> None:
    init = ("--init", nights.yesterday.run)
    assert train(nights, tmp_path / "whole", *init) == 0
    assert train(nights, tmp_path / "broken", *init, "--steps", "3") == 0
    assert train(nights, tmp_path / "broken", *init, "--resume") == 0
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_an_engine_trains_the_same(nights: Nights, tmp_path: Path) -> None:
    init = ("--init", nights.yesterday.run)
    assert train(nights, tmp_path / "here", *init) == 0
    assert train(nights, tmp_path / "engine", *init, _HERE) == 0
    assert_same_run(tmp_path / "engine", tmp_path / "here")


def test_rounds_tell_it_too(nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ("--workers", "2", "--rounds", "1", _HERE)
    assert train(nights, tmp_path / "one", *shared, "--init", nights.yesterday.run) == 0
    assert capsys.readouterr().out.splitlines()[1] == line_of(nights, "begins anew")
    assert train(nights, tmp_path / "two", *shared, "--init", str(tmp_path / "one")) == 0
    assert "; the optimiser's state goes on" in capsys.readouterr().out.splitlines()[1]


def test_in_a_grid_it_is_a_flag_or_a_field(nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, search = tmp_path / "grid.json", tmp_path / "search"
    grid.write_text(json.dumps({"learning_rate": [0.01, 0.02]}))
    assert train(nights, search, "--grid", str(grid), "--init", nights.yesterday.run) == 0
    for name in ("learning_rate_0.01", "learning_rate_0.02"):
        assert read_state(str(search / "runs" / name)).state["init"]["columns"] < 40
    grid.write_text(json.dumps([{"init": nights.yesterday.run}, {"learning_rate": 0.01}]))
    assert train(nights, search, "--grid", str(grid), "--overwrite") == 0
    begun = {path.name: "init" in read_state(str(path)).state for path in (search / "runs").iterdir()}
    assert sorted(begun.values()) == [False, True]
    # It is checked before the first run is trained.
    grid.write_text(json.dumps([{"seed": 1}, {"seed": 2, "hidden": 5, "init": nights.yesterday.run}]))
    capsys.readouterr()
    assert train(nights, tmp_path / "other", "--grid", str(grid)) == 2
    assert "entry 2, run seed_2-hidden_5-init_" in (said := capsys.readouterr().err)
    assert "--hidden was 4, is 5; train with the same, or leave out --init" in said
    assert not (tmp_path / "other").exists()
