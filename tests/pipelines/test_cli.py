import subprocess
import sys

import pytest

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines import cli
from nnsparse_stream.pipelines.options import pipeline_options
from nnsparse_stream.pipelines.running import input_error_in, run_pipeline


def test_the_overview_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["prepared"], "there is no command 'prepared'"),
        (["prepare", "--output", "x"], "--axis"),
        (["prepare", "--output", "x", "--axis", "movie"], "invalid choice: 'movie'"),
        (["prepare", "--output", "x", "--axis", "user", "--folds", "90,20,10"], "sum to 100"),
        (["train", "--data", "x", "--output", "y", "--epoch", "3"], "unknown flag '--epoch'"),
        (["train", "--data", "x", "--output", "y", "--epochs", "0"], "epochs is 0, not 1 or more"),
        (["train", "--data", "x", "--output", "y", "--resume", "--overwrite"], "contradict each other"),
        (["train", "--data", "x", "--output", "y", "--preset", "none"], "there is no preset 'none'"),
        (["train", "--data", "/nowhere/x", "--output", "y"], "/nowhere/x is not a data set"),
        (["evaluate", "--data", "/nowhere/x", "--model", "y"], "y is neither a training run"),
        (["score", "--model", "x", "--output", "y"], "either --data or --input"),
        (["score", "--model", "/nowhere/x", "--data", "d", "--output", "y"], "neither a training run's directory nor"),
        (["prepare", "--input", "x", "--output", "y", "--axis", "user", "--direct_running_mode", "multi_threading"],
         "multi_threading loses rows"),
    ],
)  # fmt: skip
def test_wrong_flags_exit_with_2_and_a_message(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_text("1,1,5\n")
    if "--input" not in argv:
        (tmp_path / "x").unlink()
    assert cli.main(argv) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "y").exists()


def test_an_unexpected_error_exits_with_1_and_says_how_to_see_more(monkeypatch, capsys):
    def broken(args, beam_flags):
        raise RuntimeError("first line\nthe last line")

    monkeypatch.setattr("nnsparse_stream.pipelines.doctor.run", broken)
    assert cli.main(["doctor"]) == 1
    assert "RuntimeError: the last line" in capsys.readouterr().err


def test_an_engine_is_given_absolute_paths_since_its_workers_run_in_other_directories(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("nnsparse_stream.pipelines.score.run", lambda args, beam_flags: taken.append(args))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    flags = [
        "--input",
        "a,b",
        "--input",
        "c,s3://bucket/d",
        "--model",
        "../run",
        "--output",
        "lists",
        "--user_column",
        "e",
    ]
    engine = ["--runner=PortableRunner", "--job_endpoint=localhost:1"]
    assert [cli.main(["score", *flags, *beam]) for beam in ([], ["--runner=DirectRunner"], engine)] == [0] * 3
    *here, there = taken
    assert here == [here[0]] * 2
    assert (here[0].input, here[0].model, here[0].output) == (["a,b", "c", "s3://bucket/d"], ["../run"], "lists")
    assert there.input == [f"{tmp_path}/a,b", f"{tmp_path}/c", "s3://bucket/d"]
    assert (there.model, there.output) == ([f"{tmp_path}/../run"], f"{tmp_path}/lists")
    assert (there.user_column, there.data) == ("e", None)


def test_a_process_ends_although_what_is_left_waits_for_a_thread_that_stands_still():
    """As objects of gRPC do, where the interpreter deletes them: by chance, so one that always does stands for them."""
    code = """
import atexit, gc, threading
from nnsparse_stream.pipelines import cli

lock, is_held = threading.Lock(), threading.Event()

class Waiting:
    def __init__(self):
        self.itself = self
    def __del__(self):
        lock.acquire()

def hold():
    with lock:
        is_held.set()
        threading.Event().wait()

def command(argv):
    gc.disable()
    Waiting()
    threading.Thread(target=hold, daemon=True).start()
    is_held.wait()
    atexit.register(print, "the last", end="")
    return 3

cli.main = command
cli.console()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "the last", "")


def test_an_input_error_of_a_worker_comes_back_as_one():
    import apache_beam as beam

    def fail(_):
        raise InputError("file.csv:3: rating is not a number")

    with pytest.raises(InputError, match=r"^file\.csv:3: rating is not a number$"):
        run_pipeline(lambda pipeline: pipeline | beam.Create([1]) | beam.Map(fail), [])


def test_the_text_of_a_remote_traceback_gives_the_input_error():
    text = "Traceback\n  File x\nnnsparse_stream.errors.InputError: a.csv is empty [while running 'Read']\nmore"
    assert str(input_error_in(text)) == "a.csv is empty"
    assert input_error_in("ValueError: something else") is None


def test_flags_are_pipeline_options_too():
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    options = PipelineOptions(["--input", "a,b", "--output", "o", "--axis", "item", "--runner", "DataflowRunner"])
    ours = options.view_as(pipeline_options("prepare"))
    assert (ours.input, ours.axis, ours.user_column) == (["a", "b"], "item", "user")
    assert options.view_as(StandardOptions).runner == "DataflowRunner"
    train = PipelineOptions(["--data", "d", "--output", "o"]).view_as(pipeline_options("train"))
    assert (train.data, train.preset) == ("d", "cfn")


@pytest.mark.parametrize(
    "flags", [["--runner=NoSuchRunner"], ["--runner=FlinkRunnner"], ["--direct_running_mode=multi_threading"]]
)
def test_a_runner_that_cannot_be_used_is_refused_before_anything_is_removed(trained, tmp_path, capsys, flags):
    data = tmp_path / "data"
    prepare = ["prepare", "--input", trained.log, "--output", str(data), "--axis", "user"]
    assert cli.main(prepare) == 0
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert cli.main([*prepare, "--overwrite", *flags]) == 2
    assert flags[0].split("=")[1] in capsys.readouterr().err
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_inputs_and_output_lie_apart(trained, tmp_path, capsys):
    scores = tmp_path / "scores"
    score = ["score", "--model", trained.run, "--data", trained.data, "--output", str(scores), "--top_k", "1"]
    assert cli.main(score) == 0
    pairs = ["--pairs", f"{scores}/part-*.parquet", "--user_column", "row_id", "--item_column", "column_id"]
    assert cli.main([*score[:-2], *pairs, "--overwrite"]) == 2
    assert "lies in --output" in capsys.readouterr().err
    assert list(scores.glob("part-*.parquet"))
    inside = ["--input", str(scores), "--output", str(scores / "out"), "--axis", "user"]
    assert cli.main(["prepare", *inside]) == 2
    assert "lies in the input" in capsys.readouterr().err
    assert cli.main([*score[:5], "--output", f"{trained.data}/scores", "--top_k", "1"]) == 2
    assert "lies in the input" in capsys.readouterr().err


def test_figures_replace_figures_but_nothing_else(trained, tmp_path, capsys):
    target = tmp_path / "figures.json"
    evaluate = ["evaluate", "--data", trained.data, "--model", trained.run, "--json", str(target)]
    assert cli.main(evaluate) == 0
    assert cli.main(evaluate) == 0
    target.write_text('{"kind": "nnsparse-stream dataset"}')
    assert cli.main(evaluate) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    assert target.read_text() == '{"kind": "nnsparse-stream dataset"}'


def test_pairs_without_a_pair_give_an_empty_table(trained, tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "pairs.csv").write_text("user,item\n")
    output = str(tmp_path / "scores")
    flags = ["--model", trained.run, "--data", trained.data, "--pairs", str(tmp_path / "pairs.csv"), "--output", output]
    assert cli.main(["score", *flags]) == 0
    table = pq.read_table(output)
    assert (len(table), table.schema.names) == (0, ["row_id", "column_id", "score"])


@pytest.mark.parametrize("folds", ["a,b,c", "90,10", "70,20,20", "-10,100,10"])
def test_folds_that_are_none_are_explained(folds, capsys):
    assert cli.main(["prepare", "--input", "x", "--output", "y", "--axis", "user", f"--folds={folds}"]) == 2
    assert "sum to 100, as 80,10,10" in capsys.readouterr().err


def test_folds_may_be_fractions_of_a_percent(trained, tmp_path):
    flags = ["--input", trained.log, "--output", str(tmp_path / "data"), "--axis", "user", "--folds", "70.1,19.8,10.1"]
    assert cli.main(["prepare", *flags]) == 0


def test_what_a_message_quotes_of_a_damaged_file_cannot_break_its_line(tmp_path, capsys):
    (tmp_path / "x").write_bytes(b"0,2\r\x0cb\x85\xe2\x80\xa8;\n")
    argv = ["prepare", "--input", str(tmp_path / "x"), "--output", str(tmp_path / "y"), "--axis", "user"]
    assert cli.main(argv) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert r"0, 2\r\x0cb" in message
