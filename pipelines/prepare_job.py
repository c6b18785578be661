"""What `prepare` does on a Beam runner: the job, and how what its workers counted comes back."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import apache_beam as beam

    from nnsparse_stream.data.local_run import Sizes
    from nnsparse_stream.ratings.input_plan import InputPlan

Finished = TypeVar("Finished")
#: Where, in the output, the workers leave what was counted.
SUMMARY = "_summary.json"


def prepare_by_beam(
    args: argparse.Namespace,
    plan: InputPlan,
    settings: dict[str, Any],
    finish: Callable[[dict[str, Any], dict[str, Sizes]], Finished],
    tell: Callable[[Finished], None],
    beam_flags: list[str],
) -> Finished | None:
    """Prepares by a Beam runner.

    Args:
        args: the flags of `prepare`.
        plan: how the input is read.
        settings: keyword arguments of `PrepareShards`.
        finish: is given what was counted, and sizes of what went between the steps; completes the data set.
        tell: as for `run_and_finish`.
        beam_flags: Beam's.

    Returns:
        What `finish` did; None where a job does it later.
    """
    from nnsparse_stream.pipelines.metrics import sizes
    from nnsparse_stream.pipelines.running import run_and_finish

    def finish_job(result: Any) -> Finished:
        from nnsparse_stream.ratings.folds import folds_from_json
        from nnsparse_stream.storage.files import join, read_file, remove_file

        url = join(args.output, SUMMARY)
        summary = json.loads(read_file(url))
        remove_file(url)
        folds = folds_from_json(summary["cut"][0]) if summary["cut"] else settings["folds"]
        counted = {**summary, "filtered": sum(summary["filtered"]), "folds": folds}
        return finish(counted, {} if result is None else sizes(result))

    building = functools.partial(build, args=args, plan=plan, settings=settings)
    return run_and_finish(building, finish_job, tell, beam_flags)


def build(
    pipeline: beam.Pipeline, args: argparse.Namespace, plan: InputPlan, settings: dict[str, Any]
) -> beam.PCollection[None]:
    """Applies everything that `prepare` does to a pipeline; leaves SUMMARY at the output.

    Args:
        pipeline: an empty one.
        args: the flags of `prepare`.
        plan: how the input is read.
        settings: keyword arguments of `PrepareShards`.

    Returns:
        One element, which is there when everything is written.
    """
    import apache_beam as beam

    from nnsparse_stream.storage.files import join
    from nnsparse_stream.transforms import PrepareShards, ReadRatings

    read = pipeline | "ReadRatings" >> ReadRatings(plan, join(args.output, "dead_letters"))
    prepared = read.ratings | "PrepareShards" >> PrepareShards(
        args.output, args.axis, plan.empty_block(), expected_ratings=plan.expected_records, **settings
    )
    return (
        pipeline
        | "Once" >> beam.Impulse()
        | "Summarise"
        >> beam.Map(
            _write_summary,
            args.output,
            beam.pvalue.AsList(read.summaries),
            beam.pvalue.AsList(prepared.filtered),
            [] if prepared.cut is None else beam.pvalue.AsList(prepared.cut),
            beam.pvalue.AsSingleton(prepared.vocabulary),
            beam.pvalue.AsList(prepared.shards),
        )
    )


def _write_summary(
    _: bytes,
    url: str,
    read: list[dict[str, Any]],
    filtered: list[int],
    cut: list[dict[str, Any]],
    vocabulary: dict[str, Any],
    shards: list[dict[str, Any]],
) -> None:
    """Brings the small results of all workers to the driver, on any runner: through the output's own storage."""
    from nnsparse_stream.storage.files import join, write_file

    summary = {"read": read, "filtered": filtered, "cut": cut, "vocabulary": vocabulary, "shards": shards}
    write_file(join(url, SUMMARY), json.dumps(summary).encode())
