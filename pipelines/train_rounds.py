"""`nnsparse-stream train --workers K`: jobs of rounds, one after the other, and a line for each round."""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines.cli import StoppedError
from nnsparse_stream.pipelines.local_workers import WorkerLostError
from nnsparse_stream.pipelines.options import model_worker
from nnsparse_stream.pipelines.running import is_only_described, run_pipeline
from nnsparse_stream.pipelines.worker_noise import without_worker_noise
from nnsparse_stream.training.progress import began_line, epoch_line, recipe_line, round_line

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest

# Seconds between two looks at what the run has written.
_LOOK_SECONDS = 1.0
# Of a round whose workers do not live to its end.
_TRIES = 4


def run_rounds(
    args: argparse.Namespace, beam_flags: list[str], request_of: Callable[[argparse.Namespace], TrainingRequest]
) -> None:
    """Trains in rounds to the end, by as many jobs as that takes.

    Args:
        args: the flags of `train`.
        beam_flags: Beam's; where there are none, processes of this machine train.
        request_of: makes the request of the flags.

    Raises:
        InputError: the user's input or flags are at fault.
        StoreError: a store or the network failed.
        StoppedError: a signal ended the run before it was over.
    """
    worker = model_worker(args, beam_flags)
    quiet: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not beam_flags:
        beam_flags, args.threads = _processes(args)
        quiet = without_worker_noise()
    from nnsparse_stream.rounds.rounds import has_ended, last_done, rounds_left
    from nnsparse_stream.training.start import run_directory
    from nnsparse_stream.transforms.train_rounds import TrainRounds

    request, job = request_of(args), uuid.uuid4().hex
    run_directory(request)
    if request.resume and has_ended(request):
        print(f"{request.output} has ended; there is nothing to resume", flush=True)
        return
    left = rounds_left(request)
    described = is_only_described(beam_flags)
    if described and len(left) > args.rounds_per_job:
        raise InputError(
            f"{len(left)} rounds are more than the `rounds_per_job` of {args.rounds_per_job}, a template is one job: "
            "allow as many, ask for fewer `epochs` or `rounds`, or run the command itself"
        )
    with quiet, _stopping(request), _telling(request, job, left.start - 1):
        failures = 0
        while True:
            rounds = left[: args.rounds_per_job]
            lost: WorkerLostError | None = None
            try:
                run_pipeline(functools.partial(_train, TrainRounds(request, worker, job, rounds)), beam_flags)
            except WorkerLostError as error:
                lost = error
            if described or has_ended(request):
                return
            begun = max(last_done(request.output) + 1, left.start)
            if lost:
                failures = failures + 1 if begun == left.start else 1
                if failures == _TRIES:
                    raise StoreError(
                        f"{lost}, {failures} times in a row; what is whole is kept: run again with --resume, or begin "
                        "with fewer `workers`"
                    )
                print(f"{lost}; round {begun} begins anew", flush=True)
            elif begun == left.start:
                raise StoreError(f"{request.output}: a job has ended without a round; run again with --resume")
            left = range(begun, left.stop)


def _train(rounds: Any, pipeline: Any) -> None:
    pipeline | rounds


def _processes(args: argparse.Namespace) -> tuple[list[str], int]:
    """Beam's flags for as many processes of this machine as there are workers, or cores, and the threads of each."""
    from nnsparse_stream.data.threads import usable_cores

    processes = min(args.workers, usable_cores())
    flags = ["--direct_running_mode=multi_processing", f"--direct_num_workers={processes}"] if processes > 1 else []
    return ["--runner=DirectRunner", *flags], args.threads or max(usable_cores() // processes, 1)


@contextlib.contextmanager
def _stopping(request: TrainingRequest) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the jobs; what is told then says how the run goes on."""
    signs = (signal.SIGTERM, signal.SIGINT)
    before = {sign: signal.getsignal(sign) for sign in signs}
    is_main = threading.current_thread() is threading.main_thread()  # only that may handle signals
    stopped = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    if is_main:
        for sign in signs:
            signal.signal(sign, interrupt)
    try:
        yield
    except BaseException as error:
        # Where this process trains, Beam makes an error of its own of an interrupt.
        if not stopped and not isinstance(error, KeyboardInterrupt):
            raise
        raise StoppedError(
            f"stopped; the rounds that are whole are in {request.output}; --resume goes on from there"
        ) from None
    finally:
        if is_main:
            for sign in signs:
                signal.signal(sign, before[sign])


@contextlib.contextmanager
def _telling(request: TrainingRequest, job: str, begun: int) -> Iterator[None]:
    """Prints a line for each round, and each epoch, when its checkpoint is there."""
    told = _Told(request, job, begun)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            told.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        told.look()


class _Told:
    """What has been told of a run."""

    def __init__(self, request: TrainingRequest, job: str, begun: int) -> None:
        self._request, self._job = request, job
        self._round, self._epoch = begun, -1

    def look(self) -> None:
        """Prints what is new, if the run can be read: it is written to meanwhile."""
        from nnsparse_stream.checkpoints.state import read_state, step_directory
        from nnsparse_stream.objectives.objectives import recipe_from_json
        from nnsparse_stream.rounds.rounds import check_owner, last_done

        try:
            check_owner(self._request, self._job)
            done = last_done(self._request.output)
            if done < 0:
                return
            state = read_state(step_directory(self._request.output, done)).state
        except (InputError, StoreError):
            return
        if self._epoch < 0:
            recipe, shared = recipe_from_json(state["recipe"]), state["rounds"]
            where = f"{shared['workers']} workers, rounds an epoch: {shared['of_epoch']}"
            print(recipe_line(self._request.preset, recipe, where), flush=True)
            if began := state.get("init"):
                print(began_line(began, state["model"]["num_columns"]), flush=True)
            self._epoch = sum(1 for metrics in state["history"] if metrics["step"] < self._round)
        for metrics in state["history"]:
            self._tell(metrics["rounds"])
            if metrics["epoch"] > self._epoch:
                self._epoch = metrics["epoch"]
                print(epoch_line(metrics, self._request.recipe.all_epochs), flush=True)
        self._tell(state["rounds"]["told"])

    def _tell(self, rounds: list[dict[str, Any]]) -> None:
        for one in rounds:
            if one["round"] > self._round:
                self._round = one["round"]
                print(round_line(one), flush=True)
