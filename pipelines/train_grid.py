"""`nnsparse-stream train --grid`: many runs, and which of them is the best."""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import StoppedError
from nnsparse_stream.pipelines.options import check_hints, model_worker
from nnsparse_stream.pipelines.train import set_by_signal, training_request

if TYPE_CHECKING:
    from nnsparse_stream.grids.grid import GridRun
    from nnsparse_stream.grids.grid_comparison import Member
    from nnsparse_stream.training.run import TrainingRequest


def run_grid(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Trains the runs that --grid names: one after the other in this process, or side by side as Beam's flags say.

    Args:
        args: the flags of `train`.
        beam_flags: Beam's own.

    Raises:
        InputError: the grid or the flags are at fault, or all runs have failed.
        StoppedError: a signal ended the work before it was over.
    """
    from nnsparse_stream.grids.grid_tables import table_text

    if args.workers > 1 or args.rounds is not None:
        raise InputError(
            "--grid: one worker trains a run, and as many runs side by side; leave out --workers, --rounds"
        )
    if beam_flags:
        summary = _train_by_beam(args, beam_flags)
        if summary is None:
            return
    else:
        check_hints(args, beam_flags)
        summary = _train_here(args)
    print(f"\n{table_text(summary)}")
    failed = [run for run in summary["runs"] if run["failed"]]
    if len(failed) == len(summary["runs"]):
        raise InputError(f"all {len(failed)} runs have failed, {failed[0]['name']} since: {failed[0]['failed']}")
    print(f"the models are in {args.output}/runs")


def _train_by_beam(args: argparse.Namespace, beam_flags: list[str]) -> dict[str, Any] | None:
    """What the grid's last file holds; None where the job is only described."""
    from nnsparse_stream.grids.grid_members import COMPLETING
    from nnsparse_stream.pipelines.running import is_only_described, run_pipeline
    from nnsparse_stream.storage import files as storage
    from nnsparse_stream.transforms.train_grid import TrainGrid

    worker = model_worker(args, beam_flags)
    members = _members(args, beam_flags)
    run_pipeline(
        lambda pipeline: (
            pipeline | TrainGrid(members, args.output, resume=args.resume, overwrite=args.overwrite, worker=worker)
        ),
        beam_flags,
    )
    if is_only_described(beam_flags):
        return None
    return storage.read_json(storage.join(args.output, COMPLETING), "a grid")


def _train_here(args: argparse.Namespace) -> dict[str, Any]:
    """Trains in this process, one run after the other, and without Beam: each has all cores, or the GPU."""
    stop = threading.Event()
    with set_by_signal(stop):  # before what takes a second to import
        from nnsparse_stream.grids.grid_members import finish, grid_directory, leave, train_member
        from nnsparse_stream.pipelines.train_progress import Shown

        members = _members(args, [])
        directory = grid_directory(args.output, resume=args.resume, overwrite=args.overwrite)
        directory.begin(resume=args.resume)
        try:
            outcomes = []
            for number, member in enumerate(members, start=1):
                outcome = None
                if not stop.is_set():
                    print(f"run {number} of {len(members)}: {member.run.name}", flush=True)
                    with contextlib.closing(Shown(member.request.output)) as progress:
                        outcome = train_member(member, resume=args.resume, progress=progress, stop=stop.is_set)
                if outcome is None:
                    raise StoppedError(f"stopped; what is trained is in {args.output}; --resume goes on from there")
                if outcome.failed:
                    print(f"failed: {outcome.failed}", flush=True)
                outcomes.append(outcome)
            return finish(directory, members, outcomes)
        except BaseException:
            leave(directory)
            raise


def _members(args: argparse.Namespace, beam_flags: list[str]) -> list[Member]:
    """The runs that the grid names, each checked as far as it can be before it is trained.

    Raises:
        InputError: one cannot be trained, or they cannot be compared.
    """
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.grids.grid import read_grid
    from nnsparse_stream.grids.grid_comparison import Member, check_comparable
    from nnsparse_stream.training.warm_start import earlier_model

    runs = read_grid(args.grid)
    threads = args.threads or _threads_of_each(beam_flags, len(runs))
    manifests: dict[str, Manifest] = {}
    members = []
    for run in runs:
        try:
            request = _request_of(run, args, threads, manifests)
            members.append(Member(run, request))
            request.metrics()
            request.check_data(manifests[request.data])
            # A run that goes on needs it no more.
            if request.init is not None and not args.resume:
                earlier_model(request, manifests[request.data])
        except InputError as error:
            raise InputError(f"{run.entry}, run {run.name}: {error}") from error
    check_comparable(members, manifests)
    return members


def _request_of(
    run: GridRun, args: argparse.Namespace, threads: int | None, manifests: dict[str, Any]
) -> TrainingRequest:
    """What a run asks for: the flags, with what the grid says of it in their places.

    Args:
        run: the run.
        args: the flags.
        threads: of the run.
        manifests: those of the data sets that were read before, by URL; takes up that of this one.
    """
    from nnsparse_stream.data.manifest import Manifest
    from nnsparse_stream.grids.grid_members import run_url
    from nnsparse_stream.objectives.presets import chosen_preset

    flags = argparse.Namespace(**{**vars(args), **run.fields, "threads": threads, "resume": False, "overwrite": False})
    flags.output = run_url(args.output, run.name)
    if flags.data is not None:
        if flags.data not in manifests:
            manifests[flags.data] = Manifest.read(flags.data)
        flags.preset = chosen_preset(flags.preset, manifests[flags.data])
    return training_request(flags)


def _threads_of_each(beam_flags: list[str], runs: int) -> int | None:
    """The share of the cores that a run has where Beam trains in several processes of this machine; else None."""
    if not beam_flags:
        return None
    from apache_beam.options.pipeline_options import DirectOptions

    from nnsparse_stream.data.threads import usable_cores
    from nnsparse_stream.pipelines.running import checked_options, engine_of

    direct = checked_options(beam_flags).view_as(DirectOptions)
    if engine_of(beam_flags) is not None or direct.direct_running_mode != "multi_processing":
        return None
    return max(1, usable_cores() // min(direct.direct_num_workers or os.cpu_count() or 1, runs))
