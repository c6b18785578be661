"""The console command `nnsparse-stream`: finds the subcommand, runs it, turns errors into exit codes.

Exit codes: 0 done, 2 the user's input or flags are at fault, 3 a night's model was refused by its gate, 143 a signal
stopped training, which can be resumed, 1 anything else: a store or the network failed, or the program did.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, cast

from nnsparse_stream.errors import InputError, StoreError
from nnsparse_stream.pipelines.standard_streams import OutputError, open_standard_streams

#: Exit code of a command that a signal ended and that can be taken up again.
STOPPED = 143
#: Exit code of a night whose model is worse than may be: what was published before stays.
REFUSED = 3
#: Subcommand -> the line that the overview shows. Each is the module `nnsparse_stream.pipelines.<name>`.
COMMANDS = {
    "prepare": "rating files -> a sharded sparse data set",
    "train": "a data set -> a trained model (checkpoints)",
    "blend": "several models -> one, whose weights are learned on the validation fold",
    "evaluate": "a model and a data set -> metrics of ratings or lists, beside baselines",
    "score": "a model and ratings -> top-K lists, or predictions at given pairs",
    "stream": "events without end -> lists of the rows that they change, by windows of time",
    "nightly": "the whole chain for one night, by a file: prepare, train, evaluate, gate, score, publish",
    "demo": "the whole way on a synthetic sample, in under two minutes",
    "doctor": "what is installed and usable here: versions, devices, runners, storage",
}

_OVERVIEW = "\n".join(f"  {name:<9} {line}" for name, line in COMMANDS.items())


class StoppedError(Exception):
    """A signal ended a command whose work can be taken up again; the message says how."""


class RefusedError(Exception):
    """A night's model did not pass its gate, and nothing was published; the message says why."""


class Command(Protocol):
    """What a module `nnsparse_stream.pipelines.<name>` offers."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's own flags; imports neither Beam nor torch."""

    def run(self, args: argparse.Namespace, beam_flags: list[str]) -> object:
        """Does the work.

        Args:
            args: the command's own flags, parsed.
            beam_flags: the flags that are not the command's, for Beam.

        Raises:
            InputError: the user's input or flags are at fault.
            StoppedError: a signal ended the work, and it can be taken up again.
        """


def parser_for(name: str) -> argparse.ArgumentParser:
    """The argument parser of one subcommand, with a help that names Beam's flags too."""
    command = cast(Command, importlib.import_module(f"nnsparse_stream.pipelines.{name}"))
    parser = argparse.ArgumentParser(
        prog=f"nnsparse-stream {name}",
        description=command.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=(
            "Beam's own pipeline options are taken beside these, for example --runner=DataflowRunner --project=... or\n"
            "--runner=PortableRunner --job_endpoint=HOST:PORT. Without --runner the pipeline runs in this process.\n"
            "Every URL is opened by fsspec: a local path, s3://, gs://, az://, memory://, and for input http(s)://."
        ),
    )
    command.add_arguments(parser)
    return parser


def run_command(name: str, flags: Sequence[str], beam_flags: Sequence[str] = ()) -> Any:
    """Shows a command that is a part of another one, runs it, and returns what it does."""
    print(f"\n$ nnsparse-stream {name} {' '.join(flags)}", flush=True)
    command = cast(Command, importlib.import_module(f"nnsparse_stream.pipelines.{name}"))
    parser = parser_for(name)
    args = parser.parse_args(flags)
    _locate(parser, args, list(beam_flags))
    return command.run(args, list(beam_flags))


def main(argv: list[str]) -> int:
    """Runs `nnsparse-stream` with the given arguments (without the program's name) and returns the exit code."""
    if argv and argv[0] in ("--version", "-V"):
        from importlib.metadata import version

        print(f"nnsparse-stream {version('nnsparse-stream')}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: nnsparse-stream COMMAND [flags]\n\nRating logs to predictions with sparse autoencoders.\n\n"
            f"commands:\n{_OVERVIEW}\n\n`nnsparse-stream COMMAND --help` explains a command's flags."
        )
        return 0 if argv else 2
    name = argv[0]
    if name not in COMMANDS:
        print(f"nnsparse-stream: there is no command {name!r}; the commands are\n{_OVERVIEW}", file=sys.stderr)
        return 2
    # Beam warns at every import that the client of a service, which nobody asked for, is not installed.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
    parser = parser_for(name)
    try:
        args, beam_flags = parser.parse_known_args(argv[1:])
    except SystemExit as stopped:  # argparse has printed the help or what is wrong
        return int(stopped.code or 0)
    try:
        _check_beam_flags(name, beam_flags)
        _locate(parser, args, beam_flags)
        cast(Command, importlib.import_module(f"nnsparse_stream.pipelines.{name}")).run(args, beam_flags)
    except InputError as error:
        print(f"nnsparse-stream {name}: {_with_flags(_printable(error), args)}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"nnsparse-stream {name}: {_with_flags(_printable(error), args)}", file=sys.stderr)
        return 1
    except StoppedError as stopped:
        print(stopped)
        return STOPPED
    except RefusedError as refused:
        print(f"nnsparse-stream {name}: {refused}", file=sys.stderr)
        return REFUSED
    except OutputError:
        raise
    except KeyboardInterrupt:
        print(f"nnsparse-stream {name}: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if os.environ.get("NNSPARSE_STREAM_DEBUG"):
            raise
        print(
            f"nnsparse-stream {name}: {type(error).__name__}: {_last_line(error)}\n"
            "This is not an error in your input. Set NNSPARSE_STREAM_DEBUG=1 to see the whole traceback.",
            file=sys.stderr,
        )
        return 1
    return 0


def _check_beam_flags(name: str, beam_flags: list[str]) -> None:
    """Refuses flags that neither the command nor Beam knows, where Beam would only log that it ignores them."""
    if not beam_flags:
        return
    from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

    import nnsparse_stream.pipelines.flink_options  # noqa: F401 (makes them known)

    known = _BeamArgumentParser(allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(known)
    try:
        _, unknown = known.parse_known_args(beam_flags)
    except SystemExit as stopped:
        raise InputError("a Beam option has a wrong value (see above)") from stopped
    from nnsparse_stream.pipelines.running import checked_options

    checked_options(beam_flags)
    if unknown:
        raise InputError(
            f"unknown flag {unknown[0]!r}: it is neither a flag of {name} nor a Beam pipeline option; "
            f"`nnsparse-stream {name} --help` lists the flags"
        )


def _locate(parser: argparse.ArgumentParser, args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Makes relative paths absolute for an engine, whose workers run in other directories than this process."""
    from nnsparse_stream.pipelines.running import engine_of
    from nnsparse_stream.storage.local_paths import local_path

    if engine_of(beam_flags) is None:
        return
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if not str(action.metavar).startswith(("URL", "FILE")) or not value:
            continue
        places = [local_path(url) or url for url in ([value] if isinstance(value, str) else value)]
        setattr(args, action.dest, places[0] if isinstance(value, str) else places)


def _printable(error: Exception) -> str:
    """An error's message in one line: what it quotes of a damaged file may hold anything."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in str(error))


def _with_flags(message: str, args: argparse.Namespace) -> str:
    """A message whose fields in backquotes are worded as the command's flags."""
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if hasattr(args, found[1]) else found[0], message)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(no message)"


def run_module(name: str) -> NoReturn:
    """What `python -m nnsparse_stream.pipelines.<name>` calls."""
    _run_process([name, *sys.argv[1:]])


def console() -> NoReturn:
    """The entry point of the console command."""
    _run_process(sys.argv[1:])


def _run_process(argv: list[str]) -> NoReturn:
    code = 1

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    # What is registered first is called last. Then everything has ended in order, and the interpreter would delete what
    # is left, with threads that stand still in the middle of their work: objects of gRPC wait for ever for a lock that
    # one of them holds, in one of thirty drivers of a job on Flink.
    atexit.register(leave)
    open_standard_streams()
    # A file's name may hold what the terminal, or UTF-8, has no character for.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(argv)
        sys.stdout.flush()
    except OutputError as error:
        print(f"nnsparse-stream: {error.strerror}", file=sys.stderr)
        code = 1
    sys.exit(code)
