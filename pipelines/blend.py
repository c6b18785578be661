"""`nnsparse-stream blend`: several models of ratings to one, whose weights are learned on the validation fold."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.options import add_worker_arguments, model_worker, urls

if TYPE_CHECKING:
    from nnsparse_stream.scoring.blend import Blend, Fit, NamedModels
    from nnsparse_stream.scoring.combination import Combination, PredictionMoments
    from nnsparse_stream.storage.output_directory import OutputDirectory
    from nnsparse_stream.transforms.model_worker import ModelWorker

DESCRIPTION = """\
Make one model of several: a weighted sum of their predictions and an intercept, fitted to the validation fold.

The models may be of either axis, each with the data set that it was trained on; the data sets hold the same ratings in
their validation folds (same input, same --folds and --fold_seed). The output holds copies of the models, and stands
alone: it is a --model of evaluate and score, whose rows are those of the first model.

  nnsparse-stream blend --model runs/items,runs/users --data data/items,data/users --output runs/blend
  nnsparse-stream evaluate --model runs/blend --fold test

Models that were trained once more, on the validation fold's ratings too, can take the weights of an earlier blend:

  nnsparse-stream blend --model runs/items-all,runs/users-all --data data/items-all,data/users-all \\
      --weights_of runs/blend --output runs/blend-all
"""

# Where, in the output, a worker leaves the fit for the driver.
_FIT = "_fit.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `blend`."""
    parser.add_argument(
        "--model",
        required=True,
        type=urls,
        action="extend",
        metavar="URL,URL[,URL...]",
        help="runs' directories or single checkpoints'",
    )
    parser.add_argument(
        "--data",
        required=True,
        type=urls,
        action="extend",
        metavar="URL[,URL...]",
        help="the data set of each model, in the same order; models of one axis may share one",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="the blend's directory")
    parser.add_argument(
        "--weights_of",
        metavar="URL",
        help="an earlier blend, whose weights are taken as they are; its models stand in the same order",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier blend in --output")
    add_worker_arguments(parser)


def run(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any]:
    """Fits, writes the blend, prints its weights, and returns what blend.json holds.

    Raises:
        InputError: the user's input or flags are at fault; nothing is left at the output.
    """
    from nnsparse_stream.checkpoints.checkpoint import copy_model
    from nnsparse_stream.checkpoints.state import step_directory
    from nnsparse_stream.pipelines.running import written_by_job
    from nnsparse_stream.scoring.blend import NAME, Blend, Member, named_models
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.storage.local_paths import local_path
    from nnsparse_stream.storage.matching import check_apart
    from nnsparse_stream.storage.output_directory import OutputDirectory

    if len(args.model) < 2:
        raise InputError("--model names one model; a blend is made of two or more")
    output = OutputDirectory(args.output, contents=contents(), completing=NAME, overwrite=args.overwrite)
    check_apart(args.output, [*args.model, *args.data, *([args.weights_of] if args.weights_of else [])])
    output.check()
    models = named_models(args.model, args.data)
    bounds = _bounds(models)
    earlier = _earlier(args.weights_of, models) if args.weights_of else None
    if earlier is None:
        _check_fold(models)
    worker = model_worker(args, beam_flags)

    def finish(combination: Combination, fit: Fit) -> Blend:
        members = []
        for position, (checkpoint, data) in enumerate(zip(models.checkpoints, models.data, strict=True)):
            folder = storage.join("members", str(position))
            copy_model(checkpoint, storage.join(args.output, folder))
            path = step_directory(folder, checkpoint.state["step"])
            members.append(Member(path, checkpoint.state["axis"], local_path(data) or data))
        blend = Blend(tuple(members), replace(combination, bounds=bounds), fit)
        output.complete(blend.to_json())
        return blend

    def tell(blend: Blend) -> None:
        print(table(blend, args.model))

    with written_by_job(output, beam_flags):
        blend = (
            finish(earlier.combination, earlier.fit)
            if earlier is not None
            else _fit(models, output, worker, finish, tell, beam_flags)
        )
    if blend is None:
        return {}
    tell(blend)
    return asdict(blend)


def contents() -> tuple[str, ...]:
    """Patterns of the files that `blend` writes; see `OutputDirectory`."""
    from nnsparse_stream.data.features import VOCABULARY

    member = (
        "columns/part-#-of-#.parquet",
        VOCABULARY,
        "checkpoints/step-#/model-#-of-#.safetensors",
        "checkpoints/step-#/state.json",
    )
    return (*(f"members/#/{name}" for name in member), _FIT)


def _bounds(models: NamedModels) -> tuple[float, float]:
    """The lowest and the highest rating that one of the models predicts.

    Raises:
        InputError: a model's scores are no ratings.
    """
    ranges = []
    for checkpoint in models.checkpoints:
        held = checkpoint.config.rating_range
        if held is None:
            raise InputError(
                f"the scores of the model in {checkpoint.url} are no ratings, and weights are learned only for these; "
                "those of other models are given by hand (--weights of score)"
            )
        ranges.append(held)
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _check_fold(models: NamedModels) -> None:
    """Refuses data sets without validation ratings, or whose validation ratings a model may have been trained on."""
    from nnsparse_stream.data.manifest import Manifest

    for checkpoint, url in zip(models.checkpoints, models.data, strict=True):
        manifest = Manifest.read(url)
        if not manifest.fold_entries["validation"]:
            raise InputError(
                f"{url} has no rating in its validation fold, which weights are fitted to: prepare it with "
                "one (--folds 88,2,10), or take the weights of an earlier blend (--weights_of)"
            )
        if checkpoint.state["data"] != manifest.fingerprint():
            raise InputError(
                f"{url} is not the data set that the model in {checkpoint.url} was trained on: it may know "
                "ratings of this validation fold"
            )


def _earlier(url: str, models: NamedModels) -> Blend:
    """The blend whose weights are taken.

    Raises:
        InputError: it has other members.
    """
    from nnsparse_stream.scoring.blend import Blend

    blend = Blend.read(url)
    axes = [member.axis for member in blend.members]
    if axes != [checkpoint.state["axis"] for checkpoint in models.checkpoints]:
        raise InputError(
            f"--weights_of {url}: the rows of its models are by {', '.join(axes)}; name as many models of these "
            "axes, in that order"
        )
    return blend


def _fit(
    models: NamedModels,
    output: OutputDirectory,
    worker: ModelWorker,
    finish: Callable[[Combination, Fit], Blend],
    tell: Callable[[Blend], None],
    beam_flags: list[str],
) -> Blend | None:
    """Has `finish` called with the combination of least squared error on the validation fold, and its figures."""
    import apache_beam as beam

    from nnsparse_stream.pipelines.running import run_and_finish
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.transforms import FitBlend

    url = storage.join(output.url, _FIT)

    def build(pipeline: beam.Pipeline) -> beam.PCollection[None]:
        checkpoints = [checkpoint.url for checkpoint in models.checkpoints]
        moments = pipeline | FitBlend(checkpoints, models.data, models.checkpoints[0].state["axis"], worker)
        return moments | "Write" >> beam.Map(_write_fit, url)

    def finish_job(_: Any) -> Blend:
        from nnsparse_stream.scoring.blend import Fit
        from nnsparse_stream.scoring.combination import Combination
        from nnsparse_stream.storage.json_types import typed

        found = storage.read_json(url, "a fit")
        output.remove(_FIT)
        return finish(typed(Combination, found["combination"]), typed(Fit, found["fit"]))

    return run_and_finish(build, finish_job, tell, beam_flags)


def _write_fit(moments: PredictionMoments, url: str) -> None:
    from nnsparse_stream.scoring.blend import Fit
    from nnsparse_stream.storage import files as storage

    combination = moments.fit()
    fit = Fit.of(moments, combination)
    storage.write_file(url, storage.to_json({"combination": asdict(combination), "fit": asdict(fit)}))


def table(blend: Blend, names: list[str]) -> str:
    """The weights and figures as a text table."""
    lines = [f"{'weight':>8} {'RMSE':>8}  (validation, {blend.fit.ratings:,} ratings)"]
    for weight, rmse, name in zip(blend.combination.weights, blend.fit.members, names, strict=True):
        lines.append(f"{weight:>8.4f} {rmse:>8.4f}  {name}")
    lines.append(f"{blend.combination.intercept:>+8.4f} {blend.fit.rmse:>8.4f}  the blend")
    return "\n".join(lines)


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("blend")
