"""`nnsparse-stream nightly`: the whole chain for one night, each stage once."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import RefusedError, StoppedError, run_command
from nnsparse_stream.pipelines.nightly_config import STAGES
from nnsparse_stream.pipelines.options import positive_int

if TYPE_CHECKING:
    from nnsparse_stream.evaluation.gate import Compared
    from nnsparse_stream.pipelines.nightly_config import NightlyConfig
    from nnsparse_stream.pipelines.nightly_ledger import Night

DESCRIPTION = """\
Do what a night does, by a file: prepare the ratings (known columns keep their indices), train, evaluate, compare the
model with the one that is published (the gate), score, and publish.

A ledger in the night's directory says what is done: a night that was killed goes on with the same command, and a night
that is over does nothing. Where a metric falls by more than [gate] allows, nothing is published: the exit code is 3.
Readers follow OUTPUT/latest.json; `stream --model OUTPUT/model.txt` follows the model.

  nnsparse-stream nightly --config nightly.toml
  nnsparse-stream nightly --config nightly.toml --date 2026-11-27 --until evaluate
  nnsparse-stream nightly --config nightly.toml --roll_back 2026-11-25
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `nightly`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="URL",
        help="TOML: output, the directory of all nights; tables [prepare], [train], [evaluate] and [score] of these "
        "commands' flags; [gate], by how much each metric may fall; and [warm], where nights after the first begin "
        "from the published model: flags that take the place of those of [train]",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--date", type=_date, metavar="YYYY-MM-DD", help="the night, which is done once (default: today, in UTC)"
    )
    which.add_argument(
        "--roll_back",
        type=_date,
        metavar="YYYY-MM-DD",
        help="do nothing but publish again what this night had published; the next night goes on from there",
    )
    parser.add_argument(
        "--until",
        choices=STAGES,
        default=STAGES[-1],
        help="end after this stage; what is done before is not done again",
    )
    parser.add_argument(
        "--keep",
        type=_several,
        default=7,
        metavar="N",
        help="once a night is published, remove all that are older than the last N published ones: 2 or more, since "
        "readers of the one before may not have ended (default: 7)",
    )


def _date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date, as 2026-11-27") from None


def _several(text: str) -> int:
    number = positive_int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{text} is less than 2")
    return number


def run(args: argparse.Namespace, beam_flags: list[str]) -> None:
    """Does a night.

    Raises:
        InputError: the user's input, flags or file are at fault.
        RefusedError: the model is worse than may be, and nothing is published.
        StoppedError: a signal ended the training.
    """
    from nnsparse_stream.pipelines.nightly_config import read_config
    from nnsparse_stream.pipelines.nightly_ledger import Night, nights_in, published
    from nnsparse_stream.pipelines.running import is_only_described

    if is_only_described(beam_flags):
        raise InputError("a template is one job, and a night several: leave out --template_location")
    config = read_config(args.config)
    date = args.date or datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    nights_in(config.output)  # what is not ours is not written to
    with _alone(config.output):
        if args.roll_back is not None:
            _roll_back(Night(config.output, args.roll_back))
            return
        night, latest = Night(config.output, date), published(config.output)
        if night.ledger.done(STAGES[-1]):
            print(f"the night of {date} is over: there is nothing to do. Published is the night of {latest}")
            return
        if latest is not None and latest > date:
            raise InputError(
                f"the night of {latest} is published, which is after `date` {date}: nights go forward, unless an "
                "earlier one is published again by `roll_back`"
            )
        try:
            _go(night, config, args, beam_flags)
        except StoppedError:
            raise StoppedError(f"stopped; the same command goes on with the night of {date}") from None


@contextlib.contextmanager
def _alone(output: str) -> Iterator[None]:
    """Keeps other nights from an output on this machine's disks; elsewhere that is the schedule's to do."""
    from nnsparse_stream.pipelines.nightly_ledger import LOCK
    from nnsparse_stream.storage.local_lock import locked
    from nnsparse_stream.storage.local_paths import local_path

    def taken(who: str) -> InputError:
        return InputError(f"another night is being done in {output}, by {who}; let it end, or stop it")

    path = local_path(output)
    with contextlib.nullcontext() if path is None else locked(output, os.path.join(path, LOCK), taken):
        yield


def _roll_back(night: Night) -> None:
    from nnsparse_stream.pipelines import nightly_ledger as ledger
    from nnsparse_stream.storage import files as storage

    if not night.ledger.done(STAGES[-1]):
        there = [
            date for date in ledger.nights_in(night.output) if ledger.Night(night.output, date).ledger.done(STAGES[-1])
        ]
        raise InputError(
            f"the night of `roll_back` {night.date} is not there, or has published nothing; there are "
            f"{', '.join(there) or 'none'}"
        )
    found = storage.read_json(night.at(ledger.SUMMARY), "the summary of a night")
    ledger.point_to(night, {one["metric"]: one["now"] for one in found["gate"]["metrics"]})
    print(f"what the night of {night.date} had published is published again")


def _go(night: Night, config: NightlyConfig, args: argparse.Namespace, beam_flags: list[str]) -> None:
    from nnsparse_stream.pipelines import nightly_ledger as ledger

    chain = _Chain(night, config, args.keep, beam_flags)
    flags = {**config.flags, "train": chain.training_flags(), "publish": []}
    flags["gate"] = [f"{name}={limit!r}" for name, limit in config.limits.items()]
    directories = {stage: ledger.directory(night.at(parts[0]), *parts[1:]) for stage, parts in ledger.outputs().items()}
    for stage in STAGES:
        night.do(stage, flags[stage], directories.get(stage), getattr(chain, stage))
        if stage == args.until:
            break
    print(f"\nthe night of {night.date} is done" + (f" up to {stage}" if stage != STAGES[-1] else ", and published"))


class _Chain:
    """What each stage of a night does; a method for each, which is told whether an earlier attempt goes on."""

    def __init__(self, night: Night, config: NightlyConfig, keep: int, beam_flags: list[str]) -> None:
        self._night, self._config, self._keep = night, config, keep
        self._command = functools.partial(run_command, beam_flags=beam_flags)

    def training_flags(self) -> list[str]:
        """Those of [train], or with [warm] where there is a model to begin from."""
        warm, previous = self._config.warm, self._night.previous()
        return self._config.flags["train"] if warm is None or previous is None else warm

    def prepare(self, going_on: bool) -> None:
        """The data set; what was begun is replaced."""
        before = self._night.previous("data")
        earlier = [] if before is None else [f"--vocabulary={before}"]
        with self._going_on():
            self._command("prepare", [*self._config.flags["prepare"], *earlier, *self._to("data"), "--overwrite"])

    def train(self, going_on: bool) -> None:
        """The model; what was begun goes on."""
        before = self._night.previous("run")
        init = [f"--init={before}"] if self._config.warm is not None and before is not None else []
        flags = [*self.training_flags(), *init, f"--data={self._night.at('data')}", *self._to("run")]
        with self._going_on():
            self._command("train", [*flags, "--resume"] if going_on else flags)

    def evaluate(self, going_on: bool) -> None:
        """The model's figures, and those of the one that is published, on the same ratings."""
        from nnsparse_stream.pipelines import nightly_ledger as ledger

        # The new model comes last: what a `metrics_file` says is of it.
        if (before := self._night.previous("run")) is not None:
            with self._going_on():
                self._judge(before, ledger.BEFORE)
        self._judge(self._night.at("run"), ledger.EVALUATION)

    def gate(self, going_on: bool) -> None:
        """Compares the two.

        Raises:
            RefusedError: a metric has fallen too far.
        """
        from nnsparse_stream.evaluation.gate import told
        from nnsparse_stream.pipelines import nightly_ledger as ledger
        from nnsparse_stream.storage import files as storage

        compared = self._compared()
        failed = told(compared)
        verdict = {"passed": not failed, "metrics": [vars(one) for one in compared]}
        storage.write_file(self._night.at(ledger.GATE), storage.to_json(verdict))
        if failed:
            self._sum_up()
            kept = self._night.ledger.previous
            raise RefusedError(
                f"the gate refuses the model of {self._night.date}: {'; '.join(failed)}. What the night of {kept} has "
                f"published stays; {self._night.at(ledger.PAGE)} has the figures"
                if kept is not None
                else f"the gate refuses the model of {self._night.date}: {'; '.join(failed)}. Nothing is published"
            )

    def score(self, going_on: bool) -> None:
        """The lists or predictions; what was begun is replaced."""
        flags = [f"--model={self._night.at('run')}", f"--data={self._night.at('data')}", *self._to("scores")]
        self._command("score", [*self._config.flags["score"], *flags, "--overwrite"])

    def publish(self, going_on: bool) -> None:
        """Points to the night, sums it up, and removes old ones."""
        from nnsparse_stream.pipelines import nightly_ledger as ledger

        compared = self._compared()
        ledger.point_to(self._night, {one.metric: one.now for one in compared})
        self._sum_up()
        dates = ledger.nights_in(self._night.output)
        over = [date for date in dates if ledger.Night(self._night.output, date).ledger.done(STAGES[-1])]
        kept_from = min([*over[-(self._keep - 1) :], self._night.ledger.previous or self._night.date])
        old = [date for date in dates if date < kept_from]
        for kept in ledger.remove_nights(self._night.output, old):
            print(f"an old night is not removed: {kept}")

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Says of errors that they may be by what the night goes on from."""
        try:
            yield
        except InputError as error:
            if self._night.previous() is None:
                raise
            raise InputError(
                f"{error}. (This night goes on from that of {self._night.ledger.previous}; for data or models of "
                "another kind name a new `output`)"
            ) from error

    def _to(self, folder: str) -> list[str]:
        return [f"--output={self._night.at(folder)}"]

    def _judge(self, model: str, name: str) -> None:
        flags = [f"--data={self._night.at('data')}", f"--model={model}", f"--json={self._night.at(name)}"]
        self._command("evaluate", [*self._config.flags["evaluate"], *flags])

    def _compared(self) -> list[Compared]:
        """The metrics of the gate."""
        from nnsparse_stream.evaluation.gate import compare_models
        from nnsparse_stream.pipelines import nightly_ledger as ledger

        before = {} if self._night.previous() is None else self._figures(ledger.BEFORE)
        return compare_models(self._config.limits, self._figures(ledger.EVALUATION), before)

    def _figures(self, name: str) -> dict[str, Any]:
        from nnsparse_stream.storage import files as storage

        figures: dict[str, Any] = storage.read_json(self._night.at(name), "an evaluation")["metrics"]
        return figures

    def _sum_up(self) -> None:
        from nnsparse_stream.pipelines import nightly_ledger as ledger
        from nnsparse_stream.pipelines.nightly_summary import page, summary
        from nnsparse_stream.storage import files as storage

        found = summary(self._night)
        storage.write_file(self._night.at(ledger.SUMMARY), storage.to_json(found))
        earlier = [date for date in ledger.nights_in(self._night.output) if date < self._night.date]
        storage.write_file(self._night.at(ledger.PAGE), page(self._night.output, found, earlier).encode())


if __name__ == "__main__":
    from nnsparse_stream.pipelines.cli import run_module

    run_module("nightly")
