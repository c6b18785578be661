"""`nnsparse-stream demo`: the whole way in one command, on a synthetic sample made on the spot."""

from __future__ import annotations

import argparse
import importlib
import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from nnsparse_stream.data.dataset import Dataset
    from nnsparse_stream.ratings.synthetic import SyntheticRatings
    from nnsparse_stream.storage.output_directory import OutputDirectory

DESCRIPTION = """\
The whole way in one command: make a synthetic rating log, prepare it, train, evaluate, score, and write a report.

The sample has tastes, genres, biases and a power law of popularity, and known noise: so the lowest reachable RMSE is
known, and is shown beside the model's and beside two baselines. Takes under two minutes on two cores.

  nnsparse-stream demo --output demo
"""

_USERS, _ITEMS, _RATINGS, _NOISE = 6000, 1200, 600_000, 0.7
_PRESET = "best-small-user"
_SHOWN_USERS, _TOP_K = 3, 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `demo`."""
    parser.add_argument("--output", default="demo", metavar="URL", help="a directory for all of it (default: demo)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample and the training (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in --output")


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Runs the demo.

    Raises:
        InputError: the output cannot be used.
    """
    from nnsparse_stream.pipelines import prepare, score
    from nnsparse_stream.pipelines.running import written_by_job
    from nnsparse_stream.scoring import manifest
    from nnsparse_stream.storage.output_directory import OutputDirectory, nested
    from nnsparse_stream.training import start

    started = time.perf_counter()
    contents = (
        "ratings.parquet",
        *nested("dataset", prepare.contents()),
        *nested("run", start.CONTENTS, start.COMPLETING),
        *nested("scores", score.contents(), manifest.NAME),
        "evaluation.json",
        "report.html",
    )
    directory = OutputDirectory(args.output, contents=contents, completing="report.json", overwrite=args.overwrite)
    with written_by_job(directory, beam_flags):
        _go(args, beam_flags, directory)
    print(f"\ndone in {time.perf_counter() - started:.0f} s")


def _go(args: argparse.Namespace, beam_flags: list[str], directory: OutputDirectory) -> None:
    from nnsparse_stream.storage import files as storage

    started = time.perf_counter()

    def url(*names: str) -> str:
        return storage.join(args.output, *names)

    def command(name: str, *flags: str) -> Any:
        from nnsparse_stream.pipelines.cli import StoppedError, parser_for

        print(f"\n$ nnsparse-stream {name} {' '.join(flags)}", flush=True)
        command = importlib.import_module(f"nnsparse_stream.pipelines.{name}")
        try:
            return command.run(parser_for(name).parse_args(flags), beam_flags)
        except StoppedError:
            raise KeyboardInterrupt from None  # of a demo nothing stays to go on from

    sample = _make_sample(args.seed, directory)
    command("prepare", "--input", url("ratings.parquet"), "--output", url("dataset"), "--axis", "user",
            "--folds", "80,10,10")  # fmt: skip
    command("train", "--data", url("dataset"), "--output", url("run"), "--preset", _PRESET, "--seed", str(args.seed))
    figures = command("evaluate", "--data", url("dataset"), "--model", url("run"), "--json", url("evaluation.json"))
    command("score", "--data", url("dataset"), "--model", url("run"), "--output", url("scores"), "--top_k", str(_TOP_K))

    from nnsparse_stream.data.dataset import Dataset

    dataset = Dataset(url("dataset"))
    errors = [(baseline["name"], baseline["rmse"]) for baseline in figures["baselines"]]
    errors += [
        ("autoencoder (this model)", figures["rmse"]),
        ("best reachable (the noise)", _noise_floor(dataset, sample)),
    ]
    users = _examples(dataset, url("scores"))
    _print_summary(errors, users)
    history = _history(url("run"))
    page = _report(len(sample.ratings), errors, figures, history, users)
    storage.write_file(url("report.html"), page.encode())
    print("\nwhere things lie")
    for name, what in (
        ("ratings.parquet", "the rating log"),
        ("dataset", "the sparse data set (Parquet, manifest.json)"),
        ("run", "checkpoints (safetensors), metrics.jsonl"),
        ("evaluation.json", "errors on the test fold"),
        ("scores", f"the top {_TOP_K} of each user (Parquet)"),
        ("report.html", "the report: open it in a browser"),
    ):
        print(f"  {url(name):<28} {what}")
    seconds = time.perf_counter() - started
    summary = {"kind": "nnsparse-stream demo", "rmse": dict(errors), "seconds": round(seconds, 1)}
    directory.complete(storage.to_json(summary))


def _make_sample(seed: int, directory: Any) -> SyntheticRatings:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nnsparse_stream.ratings.synthetic import make_ratings

    sample = make_ratings(_USERS, _ITEMS, _RATINGS, _NOISE, seed)
    sink = pa.BufferOutputStream()
    pq.write_table(sample.ratings, sink)
    directory.write("ratings.parquet", bytes(sink.getvalue()))
    print(f"made {len(sample.ratings):,} ratings of {_USERS:,} users for {_ITEMS:,} items")
    return sample


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


def _examples(dataset: Dataset, scores: str) -> list[tuple[str, list[tuple[str, float]], list[tuple[str, float]]]]:
    """A few users: id, their best-rated items of the log, and their top list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.storage.matching import match_files

    batch = next(dataset.batches())
    ids = dataset.vocabulary().ids
    parts = [pa.BufferReader(storage.read_file(part)) for part in match_files([scores])]
    # Without threads: a process that has torch and exits while Arrow's threads wind down is aborted.
    top = pa.concat_tables([pq.ParquetFile(part).read(use_threads=False) for part in parts])
    users = []
    for row in range(_SHOWN_USERS):
        user = batch.column("row")[row].as_py()
        rated = sorted(
            zip(batch.column("columns")[row].as_py(), batch.column("values")[row].as_py(), strict=True),
            key=lambda pair: -pair[1],
        )
        history = [(ids[column].as_py(), value) for column, value in rated[:_TOP_K]]
        mine = top.filter(top.column("row_id").to_numpy(zero_copy_only=False) == user).sort_by("rank")
        users.append((user, history, list(zip(mine["column_id"].to_pylist(), mine["score"].to_pylist(), strict=True))))
    return users


def _history(run: str) -> list[dict[str, Any]]:
    import json

    from nnsparse_stream.storage import files as storage

    return [json.loads(line) for line in storage.read_file(storage.join(run, "metrics.jsonl")).splitlines()]


def _print_summary(errors: list[tuple[str, float]], users: list[Any]) -> None:
    print("\nRMSE on the test fold")
    for name, rmse in errors:
        print(f"  {name:<28} {rmse:.4f}")
    for user, history, top in users:
        print(f"\n{user}")
        print(f"  {'rated highest':<26} recommended")
        for (item, rating), (other, score) in zip(history, top, strict=False):
            print(f"  {item:<18} {rating:>5.1f}   {other:<18} {score:>5.2f}")


def _report(
    count: int,
    errors: list[tuple[str, float]],
    figures: dict[str, Any],
    history: list[dict[str, Any]],
    users: list[Any],
) -> str:
    from nnsparse_stream.training import report

    floor = errors[-1]
    epochs = [line["epoch"] for line in history]
    curve = report.line_chart(
        [
            report.Series("training, corrupted input", epochs, [line["train"]["rmse"] for line in history]),
            report.Series("validation", epochs, [line["validation"]["rmse"] for line in history]),
        ],
        "epoch",
        "RMSE (stars)",
        "RMSE by epoch, and the RMSE of a predictor that knows the truth.",
        levels=[("best reachable", floor[1])],
    )
    buckets = figures["buckets"]
    bars = report.bar_chart(
        [_bucket_label(bucket) for bucket in buckets],
        [("RMSE", [bucket["rmse"] for bucket in buckets])],
        "training ratings of the user",
        "RMSE (stars)",
        "Error on the test fold, by how many training ratings a user has.",
    )
    parts = [
        report.section("Error on the test fold"),
        report.table(("predictor", "RMSE"), errors, strong=2),
        report.section("Learning curve"),
        curve,
        report.section("Error by number of ratings"),
        bars,
        report.table(
            ("training ratings", "users", "ratings", "RMSE", "MAE"),
            [(_bucket_label(b), b["rows"], b["count"], b["rmse"], b["mae"]) for b in buckets],
        ),
        report.section(
            "Recommendations",
            "An item's name starts with its genre. The model never sees the genres: it finds them in the ratings.",
        ),
    ]
    for user, rated, top in users:
        rows = [
            (item, f"{rating:.1f}", other, f"{score:.2f}")
            for (item, rating), (other, score) in zip(rated, top, strict=False)
        ]
        parts += [f"<h3>{user}</h3>", report.table(("rated highest", "stars", "recommended", "predicted"), rows)]
    lead = (
        f"{count:,} synthetic ratings of {_USERS:,} users for {_ITEMS:,} items, with noise of {_NOISE} stars; "
        "a sparse autoencoder trained on 80% of them."
    )
    return report.page("nnsparse-stream: demo", lead, parts)


def _bucket_label(bucket: dict[str, Any]) -> str:
    low, high = bucket["min_ratings"], bucket["max_ratings"]
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("demo")
