"""Scoring as a pipeline: what it shuffles has a coder, and a killed run can be run again."""

from __future__ import annotations

import argparse
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from samples import ROOT
from shuffles import carries_blocks, coders_of_shuffles, falls_back

import nnsparse_stream.transforms.coders
from nnsparse_stream.pipelines import cli, score, scoring
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER
from nnsparse_stream.training.checkpoint import load_model
from nnsparse_stream.transforms.model_cache import CheckpointHandle


def arguments(*flags: str) -> argparse.Namespace:
    return cli.parser_for("score").parse_args(flags)


@pytest.mark.parametrize(("source", "wanted"), [("--data", "top_k"), ("--input", "top_k"), ("--input", "pairs")])
def test_no_shuffled_element_falls_back_to_pickle(trained, tmp_path: Path, source: str, wanted: str) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\na,b\n")
    what = ["--top_k", "3"] if wanted == "top_k" else ["--pairs", str(tmp_path / "pairs.csv")]
    known = trained.data if source == "--data" else trained.log
    args = arguments("--model", trained.run, source, known, "--output", str(tmp_path / "out"), *what)
    checkpoint = load_model(trained.run)
    ratings = score._plan(args, args.input, checkpoint, with_rating=True) if args.input else None
    pairs = score._plan(args, args.pairs, checkpoint, with_rating=False) if args.pairs else None
    nnsparse_stream.transforms.coders.register()
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    scoring.build_scoring(pipeline, args, [checkpoint], [1.0], ratings, pairs, 2)
    found = coders_of_shuffles(pipeline)
    assert not [label for label, parts in found.items() if falls_back(parts)]
    blocks = {"ScoreRatings/By shard"} | ({"SparsifyRatings/By shard"} if args.input else set())
    assert {label for label, parts in found.items() if carries_blocks(parts)} == blocks


@pytest.mark.parametrize("wanted", ["top_k", "pairs"])
def test_no_shuffled_element_of_a_blend_falls_back_to_pickle(trained, item_side, tmp_path: Path, wanted: str) -> None:
    (tmp_path / "pairs.csv").write_text("user,item\na,b\n")
    what = ["--top_k", "3"] if wanted == "top_k" else ["--pairs", str(tmp_path / "pairs.csv")]
    args = arguments(*both(trained, item_side), "--output", str(tmp_path / "out"), *what)
    checkpoints = [load_model(url) for url in args.model]
    pairs = score._plan(args, args.pairs, checkpoints[0], with_rating=False) if args.pairs else None
    nnsparse_stream.transforms.coders.register()
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    scoring.build_scoring(pipeline, args, checkpoints, [1.0, 1.0], None, pairs, 3)
    found = coders_of_shuffles(pipeline)
    assert not [label for label, parts in found.items() if falls_back(parts)]
    blocks = {"BlendPairs/By model and shard", "BlendPairs/By row"} if args.pairs else set()
    assert {label for label, parts in found.items() if carries_blocks(parts)} == blocks


def test_a_worker_of_several_models_reads_each_once(trained, item_side) -> None:
    handles = [CheckpointHandle(load_model(side.run).url) for side in (trained, item_side)]
    copies = [pickle.loads(pickle.dumps(handle)) for handle in handles]
    first = [id(handle.get()) for handle in handles]
    assert [id(handle.get()) for handle in handles] == first
    assert [id(copy.get()) for copy in copies] == first
    assert pickle.loads(pickle.dumps(handles[0]))._held is None


def both(trained, item_side) -> list[str]:
    return ["--model", f"{trained.run},{item_side.run}", "--data", f"{trained.data},{item_side.data}"]


@pytest.mark.parametrize("moment", ["_unfinished.json", "part-*.parquet"])
def test_killed_and_run_again_gives_the_same_files(trained, tmp_path: Path, moment: str) -> None:
    check_killed(["--model", trained.run, "--input", trained.log, "--top_k", "3"], tmp_path, moment)


def test_a_blend_that_is_killed_leaves_codes_that_the_next_run_removes(trained, item_side, tmp_path: Path) -> None:
    check_killed([*both(trained, item_side), "--top_k", "3"], tmp_path, "_codes/model-1/part-*.parquet")


def check_killed(flags: list[str], tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "nnsparse_stream.pipelines.score", *flags, "--output", str(out)],
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    while not list(out.glob(moment)) and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "_manifest.json").exists()
    assert cli.main(["score", *flags, "--output", str(out)]) == 0
    assert cli.main(["score", *flags, "--output", str(tmp_path / "whole")]) == 0
    files = [
        {path.relative_to(directory): path.is_file() and path.read_bytes() for path in directory.rglob("*")}
        for directory in (out, tmp_path / "whole")
    ]
    assert Path("_manifest.json") in files[1]
    assert files[0] == files[1]
