"""`nnsparse-stream train`: a data set to a trained model."""

from __future__ import annotations

import argparse

from nnsparse_stream.errors import InputError
from pipelines.options import positive_int

DESCRIPTION = """\
Train a sparse autoencoder on a data set that `prepare` wrote.

Writes checkpoints (safetensors and JSON), metrics.jsonl and run.json to --output. A run that was killed goes on from
its last checkpoint with --resume, and ends with the same weights, bit for bit.

  nnsparse-stream train --data data/ml --output runs/ml --preset cfn
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`."""
    parser.add_argument("--data", required=True, metavar="URL", help="the data set")
    parser.add_argument("--output", required=True, metavar="URL", help="the run's directory")
    parser.add_argument(
        "--preset",
        default="cfn",
        metavar="NAME",
        help="the recipe (default: cfn, the one of CFN on MovieLens-1M); the flags below replace parts of it",
    )
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--epochs", type=positive_int, metavar="N", help="passes over the training fold")
    recipe.add_argument("--hidden", type=_sizes, metavar="N[,N...]", help="units of each hidden layer, outermost first")
    recipe.add_argument("--learning_rate", type=float, metavar="X", help="of SGD, in the first epoch")
    recipe.add_argument("--weight_decay", type=float, metavar="X", help="L2 coefficient of encoder and inner layers")
    recipe.add_argument("--decoder_weight_decay", type=float, metavar="X", help="L2 coefficient of the decoder")
    recipe.add_argument("--hide_ratio", type=float, metavar="X", help="fraction of the input hidden while training")
    recipe.add_argument("--batch_rows", type=positive_int, metavar="N", help="rows of a minibatch")
    run = parser.add_argument_group("run")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, order and corruption (default: 0)")
    run.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto, a GPU where there is one)"
    )
    run.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: torch's choice)")
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    run.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(positive_int(part) for part in text.split(","))


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Trains.

    Raises:
        InputError: the user's input or flags are at fault.
    """
    from nnsparse_stream.presets import recipe
    from pipelines.running import run_pipeline

    if args.resume and args.overwrite:
        raise InputError("--resume and --overwrite contradict each other; give one of them")
    if args.hide_ratio is not None and not 0 <= args.hide_ratio < 1:
        raise InputError(f"--hide_ratio {args.hide_ratio} is not in [0, 1)")
    for flag in ("learning_rate", "weight_decay", "decoder_weight_decay"):
        if getattr(args, flag) is not None and not getattr(args, flag) >= 0:
            raise InputError(f"--{flag} {getattr(args, flag)} is not 0 or more")
    chosen = recipe(
        args.preset,
        epochs=args.epochs,
        hidden=args.hidden,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        decoder_weight_decay=args.decoder_weight_decay,
        hide_ratio=args.hide_ratio,
        batch_rows=args.batch_rows,
    )

    from nnsparse_stream.training import TrainingRequest
    from transforms.train import TrainAutoencoder

    request = TrainingRequest(
        data=args.data,
        output=args.output,
        recipe=chosen,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    run_pipeline(lambda pipeline: pipeline | TrainAutoencoder(request), beam_flags)
    print(f"the model is in {args.output}")


if __name__ == "__main__":
    from pipelines.cli import run_module

    run_module("train")
