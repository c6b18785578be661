"""`nnsparse-stream demo`: the whole way in one command, on a synthetic sample made on the spot."""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.pipelines.demo_report import Example
    from nnsparse_stream.ratings.synthetic import SyntheticRatings
    from nnsparse_stream.storage.output_directory import OutputDirectory

DESCRIPTION = """\
The whole way in one command: make a synthetic rating log, and of it predictions and lists, each prepared, trained and
evaluated, with a report.

The sample has tastes, genres, biases and a power law of popularity, and known noise: so the lowest reachable RMSE is
known, and is shown beside the model's and beside two baselines. Lists are learned from what users rated 4 or higher,
judged beside popularity, and explained. Takes under two minutes on two cores.

With --stream, ratings arrive as one looks on, and lists follow them in windows of two seconds; half-way the model is
exchanged. Takes under a minute.

  nnsparse-stream demo --output demo
  nnsparse-stream demo --stream --output demo-stream
"""

_USERS, _ITEMS, _RATINGS, _NOISE = 6000, 1200, 600_000, 0.7
_PRESET = "best-small-user"
_FOLDS = "80,10,10"
# Ratings from which on a user likes an item; and as many epochs as this small log takes to learn from them.
_LIKED, _EPOCHS = "4", "10"
_METRICS = ("ndcg@100", "recall@20")
_SHOWN_USERS, _TOP_K, _REASONS = 3, 10, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `demo`."""
    parser.add_argument("--output", default="demo", metavar="URL", help="a directory for all of it (default: demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample and the training (default: 0)")
    parser.add_argument("--stream", action="store_true", help="show lists that follow events, instead")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in --output")


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Runs the demo.

    Raises:
        InputError: the output cannot be used.
    """
    from nnsparse_stream.errors import InputError
    from nnsparse_stream.pipelines import demo_stream
    from nnsparse_stream.pipelines.running import written_by_job
    from nnsparse_stream.storage.output_directory import OutputDirectory

    started = time.perf_counter()
    if args.stream and beam_flags:
        raise InputError(f"{beam_flags[0]}: --stream runs in this process; drop one or the other")
    directory = OutputDirectory(
        args.output,
        contents=demo_stream.contents() if args.stream else _contents(),
        completing="report.json",
        overwrite=args.overwrite,
    )
    with written_by_job(directory, beam_flags):
        if args.stream:
            demo_stream.go(args, directory)
        else:
            _go(args, beam_flags, directory)
    print(f"\ndone in {time.perf_counter() - started:.0f} s")


def _contents() -> tuple[str, ...]:
    """Patterns of the files of the whole way."""
    from nnsparse_stream.pipelines import prepare, score
    from nnsparse_stream.scoring import manifest
    from nnsparse_stream.storage.output_directory import nested
    from nnsparse_stream.training import start

    return (
        "ratings.parquet",
        *(name for data in ("dataset", "liked") for name in nested(data, prepare.contents())),
        *(name for run in ("run", "ranking") for name in nested(run, start.CONTENTS, start.COMPLETING)),
        *nested("lists", score.contents(), manifest.NAME),
        "evaluation.json",
        "ranking.json",
        "report.html",
    )


def run_command(name: str, *flags: str, beam_flags: Sequence[str] = ()) -> Any:
    """Shows a command, and runs it.

    Raises:
        KeyboardInterrupt: a signal stopped it: of a demo nothing stays to go on from.
    """
    from nnsparse_stream.pipelines import cli

    try:
        return cli.run_command(name, flags, beam_flags)
    except cli.StoppedError:
        raise KeyboardInterrupt from None


def _go(args: argparse.Namespace, beam_flags: list[str], directory: OutputDirectory) -> None:
    from nnsparse_stream.storage import files as storage

    started = time.perf_counter()

    def url(*names: str) -> str:
        return storage.join(args.output, *names)

    command = functools.partial(run_command, beam_flags=beam_flags)
    sample = _make_sample(args.seed, directory)
    log, seed = ("--input", url("ratings.parquet"), "--axis", "user", "--folds", _FOLDS), ("--seed", str(args.seed))
    print("\npredictions: how many stars?")
    command("prepare", *log, "--output", url("dataset"))
    command("train", "--data", url("dataset"), "--output", url("run"), "--preset", _PRESET, *seed)
    figures = command("evaluate", "--data", url("dataset"), "--model", url("run"), "--json", url("evaluation.json"))
    print(f"\nlists: what else may be liked by who liked this? (rated {_LIKED} or higher)")
    command("prepare", *log, "--output", url("liked"), "--positive_from", _LIKED)
    model = ("--data", url("liked"), "--model", url("ranking"))
    command(
        "train", "--data", url("liked"), "--output", url("ranking"), "--preset", "ranking", "--epochs", _EPOCHS, *seed
    )
    listed = command("evaluate", *model, "--metrics", ",".join(_METRICS), "--json", url("ranking.json"))
    command("score", *model, "--output", url("lists"), "--top_k", str(_TOP_K), "--explain", str(_REASONS))

    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.pipelines import demo_report

    dataset = Dataset(url("dataset"))
    errors = [(baseline["name"], baseline["rmse"]) for baseline in figures["baselines"]]
    errors += [
        ("autoencoder (this model)", figures["rmse"]),
        ("best reachable (the noise)", _noise_floor(dataset, sample)),
    ]
    metrics = {baseline["name"]: baseline["metrics"] for baseline in listed["baselines"]}
    metrics["ranking (this model)"] = listed["metrics"]
    examples = _examples(Dataset(url("liked")), sample, url("lists"))
    print(demo_report.summary(errors, metrics, examples))
    lead = (
        f"{len(sample.ratings):,} synthetic ratings of {_USERS:,} users for {_ITEMS:,} items, with noise of {_NOISE} "
        "stars; models trained on 80% of them: a sparse autoencoder that predicts ratings, and one that lists what "
        f"else a user may like, from what users rated {_LIKED} or higher."
    )
    page = demo_report.page(lead, errors, figures, _history(url("run")), metrics, listed, examples)
    storage.write_file(url("report.html"), page.encode())
    print("\nwhere things lie")
    for name, what in (
        ("ratings.parquet", "the rating log"),
        ("dataset", "the sparse data set of ratings (Parquet, manifest.json)"),
        ("run", "its model: checkpoints (safetensors), metrics.jsonl"),
        ("evaluation.json", "its errors on the test fold"),
        ("liked", f"the data set of what was rated {_LIKED} or higher"),
        ("ranking", "its model"),
        ("ranking.json", "how good its lists are on the test fold"),
        ("lists", f"the top {_TOP_K} of each user with their reasons (Parquet)"),
        ("report.html", "the report: open it in a browser"),
    ):
        print(f"  {url(name):<28} {what}")
    seconds = time.perf_counter() - started
    summary = {
        "kind": "nnsparse-stream demo",
        "rmse": dict(errors),
        "lists": metrics,
        "seconds": round(seconds, 1),
    }
    directory.complete(storage.to_json(summary))


def _make_sample(seed: int, directory: Any) -> SyntheticRatings:
    from nnsparse_stream.ratings.synthetic import make_ratings

    sample = make_ratings(_USERS, _ITEMS, _RATINGS, _NOISE, seed)
    write_table(sample.ratings, "ratings.parquet", directory)
    print(f"made {len(sample.ratings):,} ratings of {_USERS:,} users for {_ITEMS:,} items")
    return sample


def write_table(table: pa.Table, name: str, directory: OutputDirectory) -> None:
    """Writes a Parquet file of a demo."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    directory.write(name, bytes(sink.getvalue()))


def _noise_floor(dataset: Dataset, sample: SyntheticRatings) -> float:
    """The RMSE on the test fold of the predictor that knows the truth."""
    import numpy as np

    from nnsparse_stream.ratings.synthetic import item_ids, user_ids

    item_of_column = _positions(dataset.vocabulary().ids, item_ids(_ITEMS))
    squared, count = 0.0, 0
    for batch in dataset.batches():
        users = _positions(batch.column("row"), user_ids(_USERS))
        lengths = np.diff(batch.column("columns").offsets.to_numpy())
        test = batch.column("fold").flatten().to_numpy() == 2
        rows = np.repeat(users, lengths)[test]
        items = item_of_column[batch.column("columns").flatten().to_numpy()[test]]
        errors = sample.expected(rows, items) - batch.column("values").flatten().to_numpy()[test]
        squared, count = squared + float((errors**2).sum()), count + len(errors)
    return math.sqrt(squared / count)


def _positions(ids: pa.Array, among: pa.Array) -> Any:
    import pyarrow.compute as pc

    return pc.index_in(ids, value_set=among).to_numpy()


def _examples(liked: Dataset, sample: SyntheticRatings, lists: str) -> list[Example]:
    """A few users with what they liked and their lists."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from nnsparse_stream.pipelines.demo_report import Example
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.storage.matching import match_files
    from nnsparse_stream.training.reasons_chart import Listed

    parts = [pa.BufferReader(storage.read_file(part)) for part in match_files([lists])]
    # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
    top = pa.concat_tables([pq.ParquetFile(part).read(use_threads=False) for part in parts])
    batch = next(liked.batches())
    enough = pc.greater_equal(pc.list_value_length(batch.column("columns")), _TOP_K)
    examples = []
    for user in batch.column("row").filter(enough).to_pylist()[:_SHOWN_USERS]:
        rated = sample.ratings.filter(pc.equal(sample.ratings["user"], user))
        stars = {row["item"]: row["rating"] for row in rated.to_pylist() if row["rating"] >= float(_LIKED)}
        listed = [
            Listed(row["column_id"], row["score"], {it["id"]: it["contribution"] for it in row["reasons"]})
            for row in top.filter(pc.equal(top["row_id"], user)).sort_by("rank").to_pylist()
        ]
        examples.append(Example(user, stars, listed))
    return examples


def _history(run: str) -> list[dict[str, Any]]:
    import json

    from nnsparse_stream.storage import files as storage

    return [json.loads(line) for line in storage.read_file(storage.join(run, "metrics.jsonl")).splitlines()]


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("demo")
