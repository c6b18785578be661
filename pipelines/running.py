"""Runs a Beam pipeline on the runner that the flags name, and brings a worker's InputError back to the driver."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines.local_workers import ended_with_the_run
from nnsparse_stream.storage.files import one_line
from nnsparse_stream.storage.output_directory import OutputDirectory

#: Used where the flags name no runner: the whole pipeline in this process.
IN_PROCESS_RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"

# A worker's exception reaches the driver as the text of its traceback, on every runner.
_REMOTE_ERROR = re.compile(r"\b(InputError|StoreError): (.+?)(?: \[while running|\\n|$)", re.MULTILINE)
_STEP = re.compile(r" \[while running '.*'\]$")

# These log the whole traceback of a failed bundle, which the driver reports in a line.
_TRACEBACK_LOGGERS = ("apache_beam.runners.common", "apache_beam.runners.worker.sdk_worker")

#: Between two looks at a job, and for its own end once it has nothing more to do.
_LOOK_SECONDS, _GRACE_SECONDS = 0.5, 3.0
#: How long an engine may be silent before its job is given up for lost.
_SILENT_SECONDS = 60.0

_LOGGER = logging.getLogger(__name__)

_MAY_GO_ON = "it may go on: end it on the engine before another run writes to the same output"


_Finished = TypeVar("_Finished")


class JobLostError(RuntimeError):
    """An engine's job may go on, and nobody here learns how it does."""


def input_error_in(text: str) -> InputError | StoreError | None:
    """Finds the InputError, or StoreError, in the text of an error that a runner reported.

    Args:
        text: what the runner raised, as text; it holds a worker's traceback.

    Returns:
        The error with its own message, or None where the text holds none.
    """
    found = _REMOTE_ERROR.search(text)
    if not found:
        return None
    return (InputError if found.group(1) == "InputError" else StoreError)(found.group(2).strip())


def checked_options(beam_flags: list[str]) -> Any:
    """Beam's options of these flags, checked before a command changes anything.

    Raises:
        InputError: there is no such runner, it is not installed, or it runs in a mode that loses data.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.runner import create_runner

    import nnsparse_stream.pipelines.flink_options  # noqa: F401 (makes them known)

    options = PipelineOptions(beam_flags)
    if options.view_as(DirectOptions).direct_running_mode == "multi_threading":
        raise InputError(
            "--direct_running_mode=multi_threading loses rows silently in GroupByKey; use in_memory or multi_processing"
        )
    standard = options.view_as(StandardOptions)
    if standard.runner in (None, "DirectRunner"):
        # DirectRunner would first try to download the Prism runner; the in-process runner is what we mean.
        standard.runner = IN_PROCESS_RUNNER
    try:
        create_runner(standard.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise InputError(f"--runner={standard.runner} cannot be used: {' '.join(str(error).split())}") from error
    return options


def is_only_described(beam_flags: list[str]) -> bool:
    """Whether a job is written down for a service that starts it later, as a flex template's launcher does.

    This process is over then before the job begins.
    """
    if not beam_flags:
        return False
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return checked_options(beam_flags).view_as(GoogleCloudOptions).template_location is not None


def run_and_finish(
    build: Callable[[Any], Any],
    finish: Callable[[Any], _Finished],
    tell: Callable[[_Finished], None],
    beam_flags: list[str],
) -> _Finished | None:
    """Runs a pipeline and then `finish`: in this process, or as the last step of a job that is only described.

    Args:
        build: is given the `beam.Pipeline`, applies the transforms, and returns a collection of one element, which is
            there when everything is written.
        finish: makes the output whole of what the workers have left there; is given Beam's `PipelineResult`, or None
            where a worker calls it, which may make it again together with the step that `build` returned.
        tell: prints what `finish` returned; called here only by that worker. Elsewhere the caller does it, when nothing
            that fails while it prints can take the output back.
        beam_flags: as for `run_pipeline`.

    Returns:
        What `finish` did, or None where it is left to the job.
    """
    if not is_only_described(beam_flags):
        return finish(run_pipeline(build, beam_flags))
    import apache_beam as beam

    def finish_there(_: Any) -> None:
        tell(finish(None))

    run_pipeline(lambda pipeline: build(pipeline) | "Finish" >> beam.Map(finish_there), beam_flags)
    return None


def run_pipeline(
    build: Callable[[Any], object],
    beam_flags: list[str],
    has_ended: Callable[[], bool] | None = None,
    told: Callable[[Any], None] = lambda _: None,
) -> Any:
    """Builds a pipeline, runs it to its end and returns the result.

    Args:
        build: is given the `beam.Pipeline` and applies the transforms.
        beam_flags: Beam's own flags (`--runner=...`, `--job_endpoint=...`); without a runner the pipeline runs in
            this process.
        has_ended: whether a job without end has done all that it was to do, where it can know that: an engine whose
            sources live on (Flink) is then told to end it.
        told: with `has_ended`, is given the result again and again while the job runs, once a second or so.

    Returns:
        Beam's `PipelineResult`, finished; its metrics can be queried.

    Raises:
        InputError: the user's input is at fault, whichever worker noticed it; or the flags ask for a mode that loses
            data. A job on an engine is over then.
        StoreError: a store or the network failed.
        JobLostError: an engine no longer says how its job does.
        WorkerLostError: a worker process of this machine has ended before its work.
    """
    import apache_beam as beam

    import nnsparse_stream.transforms.coders

    nnsparse_stream.transforms.coders.register()
    options = checked_options(beam_flags)
    for name in _TRACEBACK_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        pipeline = beam.Pipeline(runner=_quiet_runner(options), options=options)
        build(pipeline)
        with _no_job_tracebacks():
            with ended_with_the_run() if _starts_processes(options) else contextlib.nullcontext():
                result = pipeline.run()
            try:
                if has_ended is not None and _ends_first(has_ended, told, result):
                    _cancel(result)
                    return result
                result.wait_until_finish()
            except KeyboardInterrupt:
                _cancel(result)
                raise
            except Exception as error:
                if not _is_over(result):
                    raise JobLostError(f"{one_line(error)}: the job does not answer; {_MAY_GO_ON}") from error
                raise
        return result
    except (InputError, StoreError) as error:
        raise type(error)(_STEP.sub("", str(error))) from None
    except JobLostError:
        raise
    except Exception as error:
        cause = input_error_in(str(error))
        if cause is None:
            raise
        raise cause from None


def _ends_first(has_ended: Callable[[], bool], told: Callable[[Any], None], result: Any) -> bool:
    """Waits until a job has done what it was to do, is over, or not heard of any more; says whether to end it."""
    answered = time.monotonic()
    while not (is_over := _is_over(result)) and time.monotonic() - answered < _SILENT_SECONDS:
        if has_ended():
            time.sleep(_GRACE_SECONDS)
            return not _is_over(result)
        if is_over is not None:
            answered = time.monotonic()
            told(result)
        time.sleep(_LOOK_SECONDS)
    return False


@contextlib.contextmanager
def _no_job_tracebacks() -> Iterator[None]:
    """Keeps the errors of a remote job from the log: the exception at its end holds the last of them."""

    def keep(record: logging.LogRecord) -> bool:
        return record.module != "portable_runner" or record.levelno < logging.ERROR

    root = logging.getLogger()
    if os.environ.get("NNSPARSE_STREAM_DEBUG"):
        yield
        return
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


@contextlib.contextmanager
def written_by_job(output: OutputDirectory, beam_flags: list[str]) -> Iterator[None]:
    """Begins an output that a pipeline with these flags writes to, and removes what was written where it fails.

    All of it, and its marker, stays where an engine's job may go on writing: when this process was interrupted, does
    not reach the engine any more, or fails in any other way than by an InputError, which comes of a job that is over.
    What came after a removal would have no marker, and the next run would take it for somebody else's.
    """
    output.begin()
    try:
        yield
    except BaseException as error:
        if isinstance(error, InputError) or engine_of(beam_flags) is None:
            output.abort()
        raise


def engine_of(beam_flags: list[str]) -> str | None:
    """The runner of an engine, whose job may go on, and write, when this process has ended; None for one in process."""
    if not beam_flags:
        return None
    from apache_beam.options.pipeline_options import StandardOptions

    runner: str = checked_options(beam_flags).view_as(StandardOptions).runner
    return None if runner == IN_PROCESS_RUNNER else runner


def _is_over(result: Any) -> bool | None:
    """Whether a job has ended; None where its engine does not say."""
    from apache_beam.runners.runner import PipelineState

    try:
        return bool(PipelineState.is_terminal(result.state))
    except Exception:  # whatever the runner's client raises where the engine does not answer
        return None


def _cancel(result: Any) -> None:
    """Asks the engine to end a job. Not all do: Beam's job server for Flink says so, and lets a batch job run on."""
    try:
        result.cancel()
        _LOGGER.warning("the job was asked to end; %s", _MAY_GO_ON)
    except Exception as error:  # whatever the runner's client raises; the interrupt is what is to be told
        _LOGGER.warning("the job could not be asked to end (%s); %s", error, _MAY_GO_ON)


def _starts_processes(options: Any) -> bool:
    """Whether the runner in this process starts others, as workers."""
    from apache_beam.options.pipeline_options import DirectOptions, StandardOptions

    is_in_process = options.view_as(StandardOptions).runner == IN_PROCESS_RUNNER
    return is_in_process and options.view_as(DirectOptions).direct_running_mode == "multi_processing"


def _quiet_runner(options: Any) -> Any:
    """The in-process runner whose worker processes log warnings only, as the driver does; None for other runners.

    It does not hand the pipeline's options to the processes that --direct_running_mode=multi_processing starts, and
    these would print each step of their start and end.
    """
    from apache_beam.options.pipeline_options import StandardOptions, WorkerOptions
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo

    if options.view_as(StandardOptions).runner != IN_PROCESS_RUNNER:
        return None
    worker_options = beam_provision_api_pb2.ProvisionInfo()
    level = options.view_as(WorkerOptions).default_sdk_harness_log_level or "WARNING"
    worker_options.pipeline_options["default_sdk_harness_log_level"] = level
    return FnApiRunner(provision_info=ExtendedProvisionInfo(worker_options))
