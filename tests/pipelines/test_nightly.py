"""Nights, each stage of which is done once: whatever ends them, and whatever the gate says."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import ROOT, contents

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.nightly_config import read_config
from nnsparse_stream.ratings.synthetic import make_ratings
from nnsparse_stream.streaming.live_model import LiveModel

FIRST, SECOND, THIRD = "2026-11-25", "2026-11-26", "2026-11-27"
CONFIG = """
output = "{output}"
[prepare]
input = ["{log}"]
axis = "user"
folds = "80,10,10"
[train]
hidden = [8]
epochs = 2
threads = 1
{more}
[gate]
rmse = {limit}
[score]
top_k = {top_k}
"""
#: What says how long something took, or where it lies.
_OWN = re.compile(r"ledger\.json|summary\.|metrics\.jsonl|run\.json|state\.json|report\.html|lock$|model\.txt|\.tmp$")


class Nights(NamedTuple):
    """One night that is published, and the log of the next, which has columns more."""

    output: Path
    log: Path
    grown: Path


def config(output: Path, log: Path, more: str = "", limit: float = 5.0, top_k: int = 3) -> str:
    """The file of nights in an output."""
    path = output.parent / f"{output.name}.toml"
    path.write_text(CONFIG.format(output=output, log=log, more=more, limit=limit, top_k=top_k))
    return str(path)


def nightly(*argv: object) -> int:
    return cli.main(["nightly", "--config", *map(str, argv)])


def of(output: Path, date: str, name: str) -> dict:
    return json.loads((output / "nights" / date / name).read_text())


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    where = tmp_path_factory.mktemp("nights")
    table = make_ratings(150, 40, 3_000, 0.5, seed=1).ratings
    new = table.slice(0, 60).set_column(1, "item", pa.array([f"new-{place % 4}" for place in range(60)]))
    keys = new.select(["user", "item"]).group_by(["user", "item"]).aggregate([([], "count_all")])
    new = pa.table({"user": keys["user"], "item": keys["item"], "rating": pa.array([4.0] * len(keys))})
    pq.write_table(table, where / "log.parquet")
    pq.write_table(pa.concat_tables([table.select(new.column_names).cast(new.schema), new]), where / "grown.parquet")
    held = Nights(where / "out", where / "log.parquet", where / "grown.parquet")
    assert nightly(config(held.output, held.log), "--date", FIRST) == 0
    return held


@pytest.fixture
def output(nights: Nights, tmp_path: Path) -> Path:
    """A copy of the first night's output, to go on with."""
    shutil.copytree(nights.output, tmp_path / "out")
    return tmp_path / "out"


def test_a_night_publishes_what_readers_and_streams_follow(nights: Nights) -> None:
    latest = json.loads((nights.output / "latest.json").read_text())
    assert latest["night"] == FIRST
    data, model, scores = (nights.output / latest[name] for name in ("data", "model", "scores"))
    assert json.loads((scores / "_manifest.json").read_text())["top_k"] == 3
    live = LiveModel(str(nights.output / "model.txt"), str(data), device="cpu")
    assert live.get().checkpoint.url.startswith(str(model))
    live.close()


def test_a_night_that_is_over_does_nothing(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(str(nights.output))
    assert nightly(config(nights.output, nights.grown), "--date", FIRST) == 0
    assert f"the night of {FIRST} is over" in capsys.readouterr().out
    after = contents(str(nights.output))
    assert {**after, "lock": b""} == {**before, "lock": b""}


def test_the_gate_keeps_a_worse_model_and_its_limit_lets_it_pass(
    nights: Nights, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = (output / "latest.json").read_bytes(), (output / "model.txt").read_bytes()
    worse = "learning_rate = 1e-9"
    for _ in range(2):
        assert nightly(config(output, nights.log, worse, limit=0.001), "--date", SECOND) == 3
        told = capsys.readouterr().err
        assert f"the gate refuses the model of {SECOND}: rmse went from" in told
        assert f"What the night of {FIRST} has published stays" in told
    assert published == ((output / "latest.json").read_bytes(), (output / "model.txt").read_bytes())
    night = output / "nights" / SECOND
    assert not (night / "scores").exists()
    summary = of(output, SECOND, "summary.json")
    assert (summary["gate"]["passed"], summary["scores"]) == (False, None)
    assert "Not published: the gate refused the model" in (night / "summary.html").read_text()

    trained = of(output, SECOND, "ledger.json")["stages"]["train"]
    shutil.copytree(output / "nights" / FIRST, output / "nights" / "2026-11-23")
    shutil.copytree(output / "nights" / SECOND, output / "nights" / "2026-11-24")  # refused
    assert nightly(config(output, nights.log, worse, limit=5.0), "--date", SECOND, "--keep", 2) == 0
    assert of(output, SECOND, "ledger.json")["stages"]["train"] == trained  # not done again
    assert json.loads((output / "latest.json").read_text())["night"] == SECOND
    assert sorted(path.name for path in (output / "nights").iterdir()) == [FIRST, SECOND]
    assert "Published: 450 scores" in (night / "summary.html").read_text()


def test_a_night_goes_on_from_what_is_published_in_steps_and_anew_where_its_flags_change(
    nights: Nights, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(output, nights.grown)
    assert nightly(path, "--date", SECOND, "--until", "prepare") == 0
    assert "is done up to prepare" in capsys.readouterr().out
    data = [Manifest.read(str(output / "nights" / date / "data")) for date in (FIRST, SECOND)]
    assert data[1].earlier_vocabularies[-1]["num_columns"] == data[0].num_columns < data[1].num_columns

    assert nightly(path, "--date", SECOND, "--until", "score") == 0
    assert "$ nnsparse-stream prepare" not in capsys.readouterr().out
    assert json.loads((output / "latest.json").read_text())["night"] == FIRST
    # The earlier model lacks columns of this data set, and is judged on all of it.
    assert of(output, SECOND, "before.json")["count"] == of(output, SECOND, "evaluation.json")["count"]

    shutil.copytree(output / "nights" / FIRST, output / "nights" / "2026-11-24")
    (output / "nights" / "2026-11-24" / "a person's notes").write_text("keep")
    assert nightly(config(output, nights.grown, top_k=2), "--date", SECOND, "--keep", 2) == 0
    told = capsys.readouterr().out
    assert re.findall(r"\$ nnsparse-stream (\w+)", told) == ["score"]
    assert "an old night is not removed" in told
    assert of(output, SECOND, "scores/_manifest.json")["top_k"] == 2
    assert of(output, SECOND, "summary.json")["data"]["new_columns"] == data[1].num_columns - data[0].num_columns

    # Back to the first night, whose files are there; and not to one that is not.
    assert json.loads((output / "latest.json").read_text())["night"] == SECOND
    assert nightly(path, "--roll_back", FIRST) == 0
    assert (output / "latest.json").read_bytes() == (nights.output / "latest.json").read_bytes()
    assert (output / "model.txt").read_text() == f"{output}/nights/{FIRST}/run\n"
    assert nightly(path, "--roll_back", THIRD) == 2
    assert f"has published nothing; there are 2026-11-24, {FIRST}, {SECOND}" in capsys.readouterr().err
    # A night that began from what is published no more begins anew, from what is.
    assert nightly(path, "--roll_back", SECOND) == 0
    assert nightly(path, "--date", THIRD, "--until", "prepare") == 0
    assert nightly(path, "--roll_back", FIRST) == 0
    assert nightly(path, "--date", SECOND) == 0
    assert f"is over: there is nothing to do. Published is the night of {FIRST}" in capsys.readouterr().out
    assert nightly(path, "--date", THIRD, "--until", "prepare") == 0
    assert of(output, THIRD, "ledger.json")["previous"] == FIRST
    assert "$ nnsparse-stream prepare" in capsys.readouterr().out
    assert nightly(path, "--roll_back", SECOND) == 0

    assert nightly(path, "--date", "2026-11-24", "--until", "prepare") == 0  # it is over
    shutil.rmtree(output / "nights" / "2026-11-24")
    assert nightly(path, "--date", "2026-11-24") == 2
    assert f"the night of {SECOND} is published, which is after --date 2026-11-24" in capsys.readouterr().err


#: A fork of a process that has imported all: it ends itself by SIGKILL before the change of a file in the output that
#: has the given number; without one it prints how many there are.
_CODE = """
import importlib, json, os, signal, sys
import apache_beam, torch
from nnsparse_stream.pipelines import cli
from nnsparse_stream.training import start

for name in ("nightly", "prepare", "train", "evaluate", "score"):
    importlib.import_module(f"nnsparse_stream.pipelines.{name}")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
for line in sys.stdin:
    argv, output, last = json.loads(line)
    child = os.fork()
    if not child:
        seen = 0
        def count(event, args):
            global seen
            writes = event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or writes) and str(args[0]).startswith(output + "/"):
                seen += 1
                if seen == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        code = cli.main(argv)
        print("changes", seen, file=sys.stderr, flush=True)
        os._exit(code)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr, flush=True)
"""


def test_a_night_that_is_killed_ends_with_the_same_result(nights: Nights, tmp_path: Path) -> None:
    """NNSPARSE_STREAM_KILLS says how often."""
    kills, chance = int(os.environ.get("NNSPARSE_STREAM_KILLS", "3")), random.Random(0)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _CODE], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdin
        assert process.stderr

        def attempt(output: Path, last: int | None = None) -> tuple[int, int]:
            """Its exit code and number of changes."""
            assert process.stdin
            assert process.stderr
            argv = ["nightly", "--config", config(output, nights.grown), "--date", SECOND]
            process.stdin.write(json.dumps([argv, str(output), last]) + "\n")
            process.stdin.flush()
            changes, told = 0, []
            for line in process.stderr:
                told.append(line)
                if line.startswith("changes "):
                    changes = int(line.split()[1])
                if line.startswith("ended "):
                    return int(line.split()[1]), changes
            raise AssertionError("".join(told))

        def fresh(name: str) -> Path:
            shutil.copytree(nights.output, tmp_path / name)
            return tmp_path / name

        reference = fresh("reference")
        code, changes = attempt(reference)
        assert code == 0
        assert changes > 30
        expected = result(reference)
        number, output, killed = 0, fresh("0"), 0
        while killed < kills:
            code, _ = attempt(output, chance.randrange(1, changes))
            if code == 0:
                assert result(output) == expected
                shutil.rmtree(output)
                number += 1
                output = fresh(str(number))
            else:
                assert code == -signal.SIGKILL
                killed += 1
        assert attempt(output)[0] == 0
        assert result(output) == expected
        process.stdin.close()


def result(output: Path) -> dict[str, object]:
    """All files that do not say how long something took, and the summary without that."""
    found: dict[str, object] = {name: data for name, data in contents(str(output)).items() if not _OWN.search(name)}
    summary = of(output, SECOND, "summary.json")
    assert set(summary.pop("seconds")) == {"prepare", "train", "evaluate", "gate", "score"}
    assert (output / "model.txt").read_text() == f"{output}/nights/{SECOND}/run\n"
    return {**found, "summary": summary}


def test_one_night_at_a_time(nights: Nights, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    with open(output / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert nightly(config(output, nights.log), "--date", SECOND) == 2
    assert "another night is being done" in capsys.readouterr().err
    assert not (output / "nights" / SECOND).exists()


def test_what_no_night_wrote_is_not_written_to(nights: Nights, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert nightly(config(tmp_path / "out", nights.log)) == 2
    assert "holds files that no night wrote (thesis.tex)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("top_k = 3", "topk = 3"), "`topk` in [score] is no flag of score"),
        (("[score]", "[scores]"), "`scores` is not known; there are output, prepare,"),
        (("epochs = 2", 'epochs = "two"'), "[train]: argument --epochs: invalid int value: 'two'"),
        (('axis = "user"', ""), "[prepare]: the following arguments are required: --axis"),
        (('axis = "user"', 'axis = "user"\noutput = "x"'), "`output` in [prepare] is what the night itself sets"),
        (("rmse = 5.0", ""), "[gate] is missing"),
        (("rmse = 5.0", "rmsd = 5.0"), "there is no metric 'rmsd'"),
        (("rmse = 5.0", "rmse = -1"), "`rmse` in [gate] is -1, and not a number of 0 or more"),
        (("rmse = 5.0", 'rmse = 5.0\n[evaluate]\nmetrics = ["mae"]'), "[gate] decides by rmse, which is not among"),
        (("epochs = 2", "epochs = 2\ntensorboard = 1"), "`tensorboard` in [train] is 1, and neither true nor false"),
        (("[gate]", "[warm]\nepoch = 1\n[gate]"), "`epoch` in [warm] is no flag of train"),
        (('axis = "user"', 'axis = "user"\nmin_column_ratings = 2'), "drops columns, and nights keep them"),
        (("[gate]", "[gate"), "is no TOML"),
        (('output = "/', 'outputs = "/'), "`outputs` is not known"),
    ],
)
def test_a_file_is_checked_before_any_work(
    changed: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(config(tmp_path / "out", tmp_path / "log.parquet"))
    text = path.read_text()
    assert changed[0] in text
    path.write_text(text.replace(*changed, 1))
    assert nightly(path) == 2
    told = capsys.readouterr().err
    assert message in told
    assert str(path) in told
    assert not (tmp_path / "out").exists()


def test_values_become_flags(tmp_path: Path) -> None:
    """Lists repeat a flag that may be repeated, and are one value otherwise; dates and truths are what flags take."""
    path = Path(config(tmp_path / "out", Path("a,b.csv")))
    path.write_text(
        path.read_text()
        .replace('axis = "user"', 'axis = "user"\nmultiline = true\ntest_from = 2026-11-20')
        .replace('folds = "80,10,10"\n', "")
        .replace("[gate]", "[warm]\nepochs = 1\n[gate]")
    )
    found = read_config(str(path))
    assert found.flags["prepare"] == ["--axis=user", "--input=a,b.csv", "--multiline", "--test_from=2026-11-20"]
    assert found.flags["train"] == ["--epochs=2", "--hidden=8", "--threads=1"]
    assert found.warm == ["--epochs=1", "--hidden=8", "--threads=1"]
    assert found.flags["evaluate"] == ["--metrics=rmse"]
    assert found.limits == {"rmse": 5.0}


def test_a_warm_night_begins_from_the_published_model(nights: Nights, output: Path) -> None:
    path = Path(config(output, nights.grown))
    path.write_text(path.read_text().replace("[gate]", "[warm]\nepochs = 1\n[gate]"))
    assert nightly(path, "--date", SECOND, "--until", "evaluate") == 0
    run = of(output, SECOND, "run/run.json")
    assert (run["epochs"], run["recipe"]["epochs"]) == (1, 1)
    assert f"nights/{FIRST}/run" in json.dumps(run["init"])


def test_what_does_not_go_on_from_the_night_before_says_so(
    nights: Nights, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(config(output, nights.log))
    path.write_text(path.read_text().replace('axis = "user"', 'axis = "item"'))
    assert nightly(path, "--date", SECOND) == 2
    assert f"This night goes on from that of {FIRST}; for data or models of another kind" in capsys.readouterr().err


def test_nights_are_no_template_and_keep_what_readers_have(
    nights: Nights, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(output, nights.log)
    assert nightly(path, "--runner=DataflowRunner", "--template_location=gs://b/t") == 2
    assert "a template is one job, and a night several" in capsys.readouterr().err
    assert nightly(path, "--keep", 1) == 2
    assert "1 is less than 2" in capsys.readouterr().err
