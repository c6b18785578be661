"""Flags that several commands share, and each command's flags as a Beam PipelineOptions class.

The commands parse their flags with argparse, so that `--help` does not import Beam. `pipeline_options(name)` wraps the
same flags in a PipelineOptions subclass, so that a Dataflow template takes them as they are.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.feedback_options import add_feedback_arguments

if TYPE_CHECKING:
    from nnsparse_stream.ratings.dialect import Dialect
    from nnsparse_stream.transforms.model_worker import ModelWorker

# Microseconds.
_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_TIMES = (
    "name or position of a time column (numbers, for instance Unix seconds; ISO dates, with times or not; or Parquet's "
    "timestamps and dates); which duplicate is the first or last, and what prepare cuts or leaves out by time, go by "
    "it (default: none; movielens: position 3)",
    "what times that are numbers count since 1970 (UTC): with a unit they are calendar times, as timestamps are "
    "(default: auto: integers are only compared with each other, decimals are seconds)",
)
_EVENT_TIMES = (
    "name or position of the events' times (numbers since 1970, as Unix seconds; ISO dates and times; or Parquet's "
    "timestamps and dates); the latest of a pair counts, and windows go by it (default: none, the time at which the "
    "source received the record; movielens: position 3)",
    "what times that are numbers count since 1970 (UTC) (default: auto: by their magnitude)",
)
FORMATS = ("auto", "parquet", "csv", "tsv", "movielens", "jsonl")


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where a model runs: the commands that run one share them."""
    group = parser.add_argument_group("workers", "where the model runs")
    group.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:N or auto, a GPU where there is one (the default); of several, one that no other process "
        "of this machine has taken",
    )
    for name, example in (("accelerator", "type:nvidia-l4;count:1;install-nvidia-driver"), ("min_ram", "16GB")):
        group.add_argument(
            f"--{name}",
            metavar="HINT",
            help=f"what an engine that knows Beam's resource hints, as Dataflow, gives the workers that run the model, "
            f"and no others: {example}",
        )


def add_metrics_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that asks for a command's metrics: all that a schedule runs share it."""
    parser.add_argument(
        "--metrics_file",
        metavar="FILE",
        help="write what was done there, too, as Prometheus text: whole, when the command has ended well, and by a "
        "stream every ten seconds",
    )


def check_hints(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Refuses hints that nobody reads, and says so where an engine may not read them.

    Raises:
        InputError: there are hints, and the run is in this process.
    """
    given = [f"--{name}" for name in ("accelerator", "min_ram") if getattr(args, name) is not None]
    if not given:
        return
    from nnsparse_stream.pipelines.running import engine_of

    engine = engine_of(beam_flags)
    if engine is None:
        raise InputError(f"{given[0]} is for the workers of an engine: name one by --runner, or leave it out")
    if not engine.endswith("DataflowRunner"):
        print(
            f"{' and '.join(given)}: of Beam's runners, Dataflow's reads these; workers of {engine} have what its "
            "operator gave them",
            file=sys.stderr,
        )


def model_worker(args: argparse.Namespace, beam_flags: list[str]) -> ModelWorker:
    """What `add_worker_arguments` was given, for the steps of a pipeline that run a model.

    Raises:
        InputError: hints that nobody reads.
    """
    from nnsparse_stream.transforms.model_worker import ModelWorker

    check_hints(args, beam_flags)
    return ModelWorker(args.device, args.accelerator, args.min_ram)


def add_format_arguments(parser: argparse.ArgumentParser, events: bool = False) -> None:
    """Adds the flags that say how rating files are read: prepare, score on raw files, and stream share them.

    Args:
        parser: receives them.
        events: whether they are of events without end: these have the data set's ids, the last of a pair counts, and
            no fraction of all can be told.
    """
    group = parser.add_argument_group("events" if events else "rating files")
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="format of the rating files, plain or gzip (default: auto, by each file's content); csv has , ; or | "
        "between fields, tsv tabs, movielens ::, as user::item::rating::timestamp; jsonl is one JSON object a line",
    )
    for field in ("user", "item"):
        group.add_argument(
            f"--{field}_column",
            default=field,
            metavar="NAME",
            help=f"name of the {field} column, or its position from 0 (default: {field})",
        )
    group.add_argument(
        "--rating_column",
        metavar="NAME",
        help="name of the rating column, or its position from 0; none: there is none, and every record counts as a 1 "
        "(default: rating; of implicit feedback none)",
    )
    add_feedback_arguments(group, duplicates=not events)
    _add_dialect_arguments(group)
    if events:
        _add_time_arguments(group, _EVENT_TIMES)
        return
    _add_time_arguments(group, _TIMES)
    group.add_argument(
        "--id_type",
        choices=("auto", "int", "string"),
        default="auto",
        help="type of the ids in text files (default: auto: int where all ids at the start of every file are "
        "plain integers)",
    )
    group.add_argument(
        "--max_bad_fraction",
        type=fraction,
        default=0.01,
        metavar="F",
        help="fail where more than this fraction of the records is malformed (default: 0.01); fewer go to "
        "OUTPUT/dead_letters with their file, position and reason",
    )


def _add_time_arguments(group: argparse._ArgumentGroup, helps: tuple[str, str]) -> None:
    group.add_argument("--timestamp_column", metavar="NAME", help=helps[0])
    group.add_argument("--timestamp_unit", choices=("auto", "s", "ms", "us", "ns"), default="auto", help=helps[1])


def _add_dialect_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--delimiter",
        metavar="TEXT",
        help="what stands between the fields of text, as ';', '\\t' or '::' (default: by each file's content)",
    )
    group.add_argument(
        "--quote", metavar="CHAR", help='character around fields that hold a delimiter, or none (default: ")'
    )
    group.add_argument("--decimal", default=".", metavar="CHAR", help="decimal point of ratings, . or , (default: .)")
    group.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="of text, as latin-1 or utf-16 (default: utf-8)"
    )
    group.add_argument("--comment", default="", metavar="TEXT", help="lines that begin with it are no records")
    group.add_argument(
        "--skip_lines",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="lines at the start of each text file that are passed over (default: 0)",
    )
    group.add_argument(
        "--header",
        choices=("auto", "true", "false"),
        default="auto",
        help="whether the first record of a text file names its columns (default: auto: where it holds their names; "
        "not where they are given by position)",
    )
    group.add_argument(
        "--multiline",
        action="store_true",
        help="look for line breaks inside quotes in text files over 64 MiB, too; each is then read by one worker",
    )


def chosen_dialect(args: argparse.Namespace) -> Dialect:
    """What the flags say of the dialect of text files."""
    from nnsparse_stream.ratings.dialect import Dialect

    header = {"auto": None, "true": True, "false": False}[args.header]
    return Dialect(
        args.delimiter,
        args.quote,
        args.decimal,
        args.encoding,
        args.comment,
        args.skip_lines,
        header,
        args.multiline,
    )


def fraction(text: str) -> float:
    """Parses a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def duration(text: str) -> int:
    """Parses a time, a number with its unit, as microseconds."""
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)(ms|s|m|h|d)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: a number and ms, s, m, h or d, as 60s or 5m")
    return round(float(found[1]) * _UNITS[found[2]])


def positive_int(text: str) -> int:
    """Parses a whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return value


def non_negative_int(text: str) -> int:
    """Parses a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def urls(text: str) -> list[str]:
    """Splits URL[,URL...]; a text that is the exact name of a local file or directory is that one, commas and all."""
    if os.path.lexists(text):
        return [text]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("no URL given")
    return parts


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that blends several models: evaluate and score share it."""
    parser.add_argument(
        "--weights", type=_weights, metavar="X,X[,X...]", help="of several models' predictions (default: equal)"
    )


def _weights(text: str) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = [-1.0]
    if min(weights) < 0 or not 0 < sum(weights) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers of 0 or more, one a model")
    return weights


def pipeline_options(name: str) -> type[Any]:
    """The flags of a command as a Beam PipelineOptions subclass.

    Args:
        name: the command, for instance "prepare".

    Returns:
        A class `PrepareOptions` (and so on); `PipelineOptions(flags).view_as(it)` has the command's flags as
        attributes. It is a subclass at one remove: Beam builds one parser of all *direct* subclasses, in which the
        flags that commands share (`--data`, `--output`) would collide.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    command = importlib.import_module(f"nnsparse_stream.pipelines.{name}")

    class CommandOptions(PipelineOptions):
        @classmethod
        def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
            pass

    class Options(CommandOptions):
        @classmethod
        def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
            command.add_arguments(parser)

    Options.__name__ = Options.__qualname__ = f"{name.capitalize()}Options"
    return Options
