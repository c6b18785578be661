"""Scoring as a pipeline: what it shuffles has a coder, and a killed run can be run again."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import apache_beam as beam
import pytest
from killing import kill
from shuffles import carries_blocks, coders_of_shuffles, falls_back

import nnsparse_stream.transforms.coders
from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.pipelines import cli, score, scoring
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER
from nnsparse_stream.scoring.blend import named_models
from nnsparse_stream.transforms.model_cache import CheckpointHandle
from nnsparse_stream.transforms.model_worker import ModelWorker


def arguments(*flags: str) -> argparse.Namespace:
    return cli.parser_for("score").parse_args(flags)


def shuffles_of(args: argparse.Namespace) -> dict[str, list]:
    """What the pipeline of `score` shuffles, by the labels of the shuffles; nothing falls back to pickle."""
    models = named_models(args.model, args.data)
    checkpoint = models.checkpoints[0]
    ratings = score._plan(args, args.input, checkpoint, with_rating=True) if args.input else None
    pairs = score._plan(args, args.pairs, checkpoint, with_rating=False) if args.pairs else None
    rows, candidates = (score._id_files(args, checkpoint, flag) for flag in ("rows", "candidates"))
    nnsparse_stream.transforms.coders.register()
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    scoring.build_scoring(pipeline, args, models, ratings, pairs, rows, candidates, 3, (), ModelWorker())
    found = coders_of_shuffles(pipeline)
    assert not [label for label, parts in found.items() if falls_back(parts)]
    return found


def wanted_flags(tmp_path: Path, wanted: str) -> list[str]:
    (tmp_path / "pairs.csv").write_text("user,item\na,b\n")
    named = str(tmp_path / "pairs.csv")
    rules = ["--rows", named, "--candidates", named]
    output = ["--output", str(tmp_path / "out")]
    return output + {"top_k": ["--top_k", "3"], "rules": rules, "pairs": ["--pairs", named]}[wanted]


@pytest.mark.parametrize(
    ("source", "wanted"), [("--data", "top_k"), ("--input", "top_k"), ("--input", "pairs"), ("--input", "rules")]
)
def test_no_shuffled_element_falls_back_to_pickle(trained, tmp_path: Path, source: str, wanted: str) -> None:
    known = trained.data if source == "--data" else trained.log
    args = arguments("--model", trained.run, source, known, *wanted_flags(tmp_path, wanted))
    blocks = {"ScoreRatings/By shard"} | ({"SparsifyRatings/By shard"} if args.input else set())
    assert {label for label, parts in shuffles_of(args).items() if carries_blocks(parts)} == blocks


@pytest.mark.parametrize("wanted", ["top_k", "pairs", "rules"])
def test_no_shuffled_element_of_a_blend_falls_back_to_pickle(trained, item_side, tmp_path: Path, wanted: str) -> None:
    args = arguments(*both(trained, item_side), *wanted_flags(tmp_path, wanted))
    blocks = {"BlendPairs/By model and shard", "BlendPairs/By row"} if args.pairs else {"RankBlend/By shard"}
    assert {label for label, parts in shuffles_of(args).items() if carries_blocks(parts)} == blocks


def test_a_worker_of_several_models_reads_each_once(trained, item_side) -> None:
    handles = [CheckpointHandle(load_model(side.run).url) for side in (trained, item_side)]
    copies = [pickle.loads(pickle.dumps(handle)) for handle in handles]
    first = [id(handle.get()) for handle in handles]
    assert [id(handle.get()) for handle in handles] == first
    assert [id(copy.get()) for copy in copies] == first
    assert pickle.loads(pickle.dumps(handles[0]))._held is None


def both(trained, item_side) -> list[str]:
    return ["--model", f"{trained.run},{item_side.run}", "--data", f"{trained.data},{item_side.data}"]


def test_killed_and_run_again_gives_the_same_files(trained, item_side, tmp_path: Path) -> None:
    """The blend leaves codes of its second model, which the next run removes."""
    one = ["score", "--model", trained.run, "--input", trained.log, "--top_k", "3"]
    blend = ["score", *both(trained, item_side), "--top_k", "3"]
    kill(
        (one, tmp_path / "begun", "_unfinished.json"),
        (one, tmp_path / "partly", "part-*.parquet"),
        (blend, tmp_path / "coded", "_codes/model-1/part-*.parquet"),
    )
    check_run_again(one, tmp_path / "begun", tmp_path / "one")
    check_run_again(one, tmp_path / "partly", tmp_path / "one")
    check_run_again(blend, tmp_path / "coded", tmp_path / "blend")


def check_run_again(argv: list[str], out: Path, whole: Path) -> None:
    assert not (out / "_manifest.json").exists()
    assert cli.main([*argv, "--output", str(out)]) == 0
    if not whole.exists():
        assert cli.main([*argv, "--output", str(whole)]) == 0
    files = [
        {path.relative_to(directory): path.is_file() and path.read_bytes() for path in directory.rglob("*")}
        for directory in (out, whole)
    ]
    assert Path("_manifest.json") in files[1]
    assert files[0] == files[1]
