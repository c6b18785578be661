"""What the fixtures of a data set and its model give, and how they are made."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nnsparse_stream.pipelines import cli
from nnsparse_stream.storage import files as storage

#: The checkout.
ROOT = Path(__file__).parents[1]


class Trained(NamedTuple):
    """Where a rating log, its data set, and a model of it lie."""

    log: str
    data: str
    run: str


def command(*argv: str) -> None:
    """Runs a command in this process and expects it to succeed."""
    assert cli.main(list(argv)) == 0, argv


def contents(url: str) -> dict[str, bytes]:
    """Every file of a directory, by its path in it."""
    return {name: storage.read_file(storage.join(url, name)) for name in storage.list_files(url)}


def way(log: bytes, base: str, resumed: bool) -> dict[str, bytes]:
    """All commands; gives the files that do not say how long something took."""
    log_url, data, run, scores = (storage.join(base, name) for name in ("in/ratings.parquet", "data", "run", "scores"))
    storage.write_file(log_url, log)
    command("prepare", "--input", log_url, "--output", data, "--axis", "user", "--folds", "80,10,10", "--num_shards=3")
    flags = ["--data", data, "--output", run, "--hidden", "8", "--epochs", "2", "--threads", "1"]
    if resumed:
        command("train", *flags, "--steps", "5", "--checkpoint_steps", "2", "--keep_checkpoints", "2")
        command("train", *flags, "--checkpoint_steps", "3", "--keep_checkpoints", "2", "--resume")
    else:
        command("train", *flags)
    command("evaluate", "--data", data, "--model", run, "--json", storage.join(base, "evaluation.json"))
    command("score", "--data", data, "--model", run, "--output", scores, "--top_k", "3")
    found = contents(base)
    last = max(name for name in found if "/model-" in name)
    exact = {name: found[name] for name in found if not name.startswith("run/")}
    return {**exact, "model": found[last]}
