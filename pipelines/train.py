"""`nnsparse-stream train`: a data set to a trained model."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import StoppedError
from nnsparse_stream.pipelines.options import (
    add_metrics_argument,
    add_worker_arguments,
    check_hints,
    model_worker,
    positive_int,
)

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest

DESCRIPTION = """\
Train a model on a data set that `prepare` wrote.

Writes checkpoints (safetensors and JSON), metrics.jsonl and run.json to --output. A run that was killed goes on from
its last checkpoint with --resume, and ends with the same weights, optimiser state and metrics (but for times and
memory), bit for bit: on the CPU of the same machine, with the same --threads. At SIGTERM or Ctrl-C it writes a
checkpoint; the exit code is then 143, or 0 where the run was over. A second one ends it at once.

  nnsparse-stream train --data data/ml --output runs/ml --preset cfn
  nnsparse-stream train --data data/ml --output runs/search --grid search.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`."""
    parser.add_argument("--data", metavar="URL", help="the data set")
    parser.add_argument("--output", required=True, metavar="URL", help="the run's directory")
    parser.add_argument(
        "--grid",
        metavar="FILE",
        help="train many runs, each to OUTPUT/runs/NAME, and compare them: JSON such as "
        '{"preset": ["best", "deep"], "seed": [0, 1]}, an object or a list of objects, of fields that are a value or '
        "a list of values, of all of which the product is trained: data, init, preset, seed, patience, "
        "validation_metric and those of the recipe; the flags say the rest",
    )
    parser.add_argument(
        "--preset",
        default="cfn",
        metavar="NAME",
        help="the recipe: auto (chosen by what the data set holds, and told), cfn (the default; that of CFN on "
        "MovieLens-1M), cfn-stacked (two layers, pretrained one by one), best (small and fast; rows are items) and "
        "best-user (rows are users), best-small and best-small-user (the same for some hundred thousand ratings), deep "
        "(the most accurate for ratings; rows are items) and deep-user (rows are users); "
        "for lists ranking, and linear (item-to-item weights in closed form)",
    )
    recipe = parser.add_argument_group(
        "recipe",
        "replaces parts of the preset; before a meaning stand the objectives that have it: rating, of presets that "
        "predict ratings, ranking and linear, of those of these names",
    )
    for name, (kind, told) in _recipe_fields().items():
        recipe.add_argument(f"--{name}", type=_TYPES[kind], metavar="X", help=told)
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights, order and corruption (default: 0)")
    run.add_argument(
        "--cache",
        choices=("device", "host", "none"),
        help="where the training ratings stay after the first epoch: in the GPU's memory, in the host's, or nowhere, "
        "read anew in each epoch (default: the first of them half of whose free memory they fit into)",
    )
    run.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: torch's choice)")
    run.add_argument("--steps", type=positive_int, metavar="N", help="end after so many minibatches (default: epochs)")
    run.add_argument(
        "--validation_metric",
        metavar="NAME",
        help="what decides which epoch is the best, judged on the validation fold: rmse, mae, ndcg@100 or any other of "
        "`evaluate --metrics` (default: rmse; of presets for lists ndcg@100)",
    )
    run.add_argument(
        "--patience",
        type=positive_int,
        metavar="N",
        help="end when --validation_metric has not improved for N epochs; the model is then the best epoch's",
    )
    run.add_argument("--checkpoint_steps", type=positive_int, metavar="N", help="a checkpoint every N minibatches, too")
    run.add_argument("--checkpoint_minutes", type=float, metavar="X", help="a checkpoint every X minutes, too")
    run.add_argument(
        "--keep_checkpoints",
        type=positive_int,
        default=2,
        metavar="N",
        help="the latest N are kept, and the best by --validation_metric (default: 2)",
    )
    shared = parser.add_argument_group("several workers", "train in rounds, after each of which changes are merged")
    shared.add_argument(
        "--workers",
        type=positive_int,
        default=1,
        metavar="K",
        help="train on so many workers, each on its share of the rows: of the engine that Beam's flags name, or as "
        "processes of this machine (default: 1)",
    )
    shared.add_argument(
        "--rounds",
        type=positive_int,
        metavar="R",
        help="rounds of an epoch (default: 4)",
    )
    shared.add_argument(
        "--rounds_per_job",
        type=positive_int,
        default=32,
        metavar="N",
        help="give the engine at most N rounds in a job, and 64 at the most (default: 32)",
    )
    run.add_argument("--tensorboard", action="store_true", help="write events for TensorBoard to OUTPUT/tensorboard")
    run.add_argument(
        "--init",
        metavar="URL",
        help="begin from an earlier model, a run's or a checkpoint's, whose vocabulary the data set extends (prepare "
        "--vocabulary): known columns keep their weights, new ones begin fresh; how long "
        "steps are follows how much of the log is new, unless --batch_rows, --learning_rate or --momentum is given",
    )
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")
    add_worker_arguments(parser)
    add_metrics_argument(parser)


def _recipe_fields() -> dict[str, tuple[str, str]]:
    """Of each field of any recipe: its annotation, and what it means, to whichever objectives have it."""
    from nnsparse_stream.objectives.objectives import recipe_types

    meanings: dict[str, dict[str, list[str]]] = {}
    kinds: dict[str, str] = {}
    for recipe in recipe_types():
        for field in dataclasses.fields(recipe):
            kinds[field.name] = str(field.type)
            meanings.setdefault(field.name, {}).setdefault(field.metadata["help"], []).append(recipe.objective)
    everywhere = len(recipe_types())
    told = {
        name: "; ".join(
            text if len(objectives) == everywhere else f"({', '.join(objectives)}) {text}"
            for text, objectives in by_text.items()
        )
        for name, by_text in meanings.items()
    }
    return {name: (kinds[name], told[name]) for name in kinds}


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive_int(part) for part in text.split(","))


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in [0, 2^63)")
    return value


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither true nor false")
    return text.lower() == "true"


# By the annotations of the recipes' fields.
_TYPES: dict[str, Callable[[str], Any]] = {
    "tuple[int, ...]": _sizes,
    "bool": _flag,
    "int": int,
    "float": float,
    "str": str,
}


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Trains: in this process, or where Beam's flags say so.

    Raises:
        InputError: the user's input or flags are at fault.
        StoppedError: a signal ended the run before it was over, and a checkpoint is written.
    """
    if args.resume and args.overwrite:
        raise InputError("--resume and --overwrite contradict each other; give one of them")
    from nnsparse_stream.pipelines.command_metrics import trained
    from nnsparse_stream.pipelines.metrics_file import MetricsFile
    from nnsparse_stream.pipelines.running import is_only_described
    from nnsparse_stream.storage import files as storage

    if args.grid is not None:
        if args.metrics_file is not None:
            raise InputError("`metrics_file` tells of one run, and --grid has a table of all; leave it out")
        from nnsparse_stream.pipelines.train_grid import run_grid

        run_grid(args, beam_flags)
        return
    described = is_only_described(beam_flags)
    if described and args.metrics_file is not None:
        raise InputError("`metrics_file` is written by this process, which is over before the job begins; leave it out")
    metrics = MetricsFile(args.metrics_file, "train")
    if args.workers > 1 or args.rounds is not None:
        from nnsparse_stream.pipelines.train_rounds import run_rounds

        run_rounds(args, beam_flags, training_request)
    elif beam_flags:
        from nnsparse_stream.pipelines.running import run_pipeline
        from nnsparse_stream.transforms.train import TrainAutoencoder

        worker = model_worker(args, beam_flags)
        request = training_request(args)
        run_pipeline(lambda pipeline: pipeline | TrainAutoencoder(request, worker), beam_flags)
    else:
        check_hints(args, beam_flags)
        if not _train_here(args):
            raise StoppedError(f"stopped; a checkpoint is in {args.output}; --resume goes on from there")
    if args.metrics_file is not None:
        metrics.write(trained(storage.read_json(storage.join(args.output, "run.json"), "a run")))
    print(f"the model {'will be' if described else 'is'} in {args.output}")


def _train_here(args: argparse.Namespace) -> bool:
    """Trains in this process; False where a signal ended the run before it was over."""
    stop = threading.Event()
    with set_by_signal(stop):  # before what takes a second to import
        from nnsparse_stream.pipelines.train_progress import Shown
        from nnsparse_stream.training.start import train

        with contextlib.closing(Shown(args.output)) as progress:
            summary = train(training_request(args), progress=progress, stop=stop.is_set)
    return "stopped" not in summary


def training_request(args: argparse.Namespace) -> TrainingRequest:
    """What the flags ask for.

    Raises:
        InputError: there is no such preset, a value does not fit, or no data set is named.
    """
    from nnsparse_stream.objectives.presets import CHOICES, chosen_preset, recipe

    if args.data is None:
        raise InputError("`data` is missing: the data set to train on")
    preset = args.preset
    if preset in CHOICES:
        from nnsparse_stream.data.manifest import Manifest

        preset = chosen_preset(preset, Manifest.read(args.data))
        print(f"preset {args.preset}: {preset}", flush=True)
    chosen = recipe(preset, **{name: getattr(args, name) for name in _recipe_fields()})

    from nnsparse_stream.training.run import TrainingRequest

    return TrainingRequest(
        data=args.data,
        output=args.output,
        recipe=chosen,
        preset=preset,
        # What a flag says of minibatches or their learning rate is meant as it stands.
        grow=(args.batch_rows, args.batch_entries, args.learning_rate) == (None, None, None),
        seed=args.seed,
        device=args.device,
        cache=args.cache,
        threads=args.threads,
        max_steps=args.steps,
        validation_metric=args.validation_metric,
        patience=args.patience,
        checkpoint_steps=args.checkpoint_steps,
        checkpoint_minutes=args.checkpoint_minutes,
        keep_checkpoints=args.keep_checkpoints,
        workers=args.workers,
        rounds=args.rounds,
        init=args.init,
        # So is what it says of how steps follow each other.
        warm=(args.batch_rows, args.learning_rate, args.momentum) == (None, None, None),
        resume=args.resume,
        overwrite=args.overwrite,
        tensorboard=args.tensorboard,
    )


@contextlib.contextmanager
def set_by_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set an event; a second one raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("train")
