"""TrainRounds: training in rounds by several workers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam

from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.transforms.model_worker import ModelWorker

if TYPE_CHECKING:
    from nnsparse_stream.training.run import TrainingRequest


#: Rounds of a pipeline at the most: Beam goes through it by recursion, for which 100 are too deep.
MOST_ROUNDS = 64


class TrainRounds(beam.PTransform):
    """Trains one model in rounds: the root of a pipeline, or of a branch of one.

    What goes through the engine's shuffle is names, counts and checksums; tensors go by the run's storage. A round has
    three barriers: workers are spread, changes are merged when all are there, and the checkpoint is whole when all
    parts are.

    Args:
        request: the run; see `nnsparse_stream.training.run.TrainingRequest`.
        worker: the hints of the steps that run a model; its device is the request's.
        job: what makes several of these one run: where an engine makes work again, and where a driver goes on with
            further rounds, it is the same name. Another one takes up a run by `request.resume`.
        rounds: numbers of the rounds, from 1 on; those before are done.

    Returns:
        A PCollection of one dictionary: what `nnsparse_stream.training.start.train` returns.

    Raises:
        InputError: at once: there are more than `MOST_ROUNDS`; when the pipeline is built: a hint is none; in a worker:
            what `start.train` raises.
    """

    def __init__(self, request: TrainingRequest, worker: ModelWorker, job: str, rounds: range) -> None:
        super().__init__()
        if len(rounds) > MOST_ROUNDS:
            raise InputError(
                f"{len(rounds)} rounds are more than the {MOST_ROUNDS} that a pipeline may have: make several, of one "
                "`job`, or ask for fewer `rounds` of an epoch"
            )
        self._request, self._worker, self._job, self._rounds = request, worker, job, rounds

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[dict[str, Any]]:
        """Applies the transform to the pipeline."""
        request, worker, job = self._request, self._worker, self._job
        of_epoch = request.rounds_of_epoch
        assert of_epoch is not None
        judges = Manifest.read(request.data).fold_entries["validation"] > 0
        done = begin | "Once" >> beam.Create([0], reshuffle=False) | "Open" >> beam.ParDo(_Open(request, job))
        done = done | "Begin" >> _ByWorkers(request.workers, worker.runs(_Survey(request, job)), _Begin(request, job))
        for number in range(self._rounds.start - 1, self._rounds.stop):
            if number in self._rounds:
                done = done | f"Round {number}" >> _Round(request, worker, job, number)
            # Also of the round before the first: the run may have been stopped while its epoch was judged.
            if number == 0 or number % of_epoch:
                continue
            ends = _FinishEpoch(request, job, number)
            step: beam.PTransform = beam.ParDo(ends)
            if judges:
                step = _ByWorkers(request.workers, worker.runs(_Judge(request, job, number)), ends)
            done = done | f"Epoch {number // of_epoch}" >> step
        return done | "Complete" >> beam.ParDo(_Complete(request, job))


# What is shuffled: the number of a worker, or of a part of the model, and what is told, as JSON.
_Message = tuple[int, bytes]


class _ByWorkers(beam.PTransform):
    """Has each worker do something, and one what follows when all have done it."""

    def __init__(self, workers: int, each: beam.ParDo, then: beam.DoFn) -> None:
        super().__init__()
        self._workers, self._each, self._then = workers, each, then

    def expand(self, done: beam.PCollection[int]) -> beam.PCollection[int]:
        return (
            done
            | _Spread(self._workers)
            | "Each" >> self._each.with_output_types(_Message)
            | "All" >> beam.GroupByKey()
            | "Then" >> beam.ParDo(self._then).with_output_types(int)
        )


class _Spread(beam.PTransform):
    """The numbers of the workers, dealt to the engine's machines by turns: keys may all be hashed to one of them."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._workers = workers

    def expand(self, done: beam.PCollection[int]) -> beam.PCollection[int]:
        return done | "Workers" >> beam.FlatMap(_numbers, self._workers).with_output_types(int) | beam.Reshuffle()


def _numbers(_: int, workers: int) -> range:
    return range(workers)


class _Round(beam.PTransform):
    def __init__(self, request: TrainingRequest, worker: ModelWorker, job: str, number: int) -> None:
        super().__init__()
        self._request, self._worker, self._job, self._number = request, worker, job, number

    def expand(self, done: beam.PCollection[int]) -> beam.PCollection[int]:
        given = (self._request, self._job, self._number)
        return (
            done
            | _Spread(self._request.workers)
            | "Train" >> self._worker.runs(_Train(*given)).with_output_types(_Message)
            | "By part" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(_Merge(*given)).with_output_types(_Message)
            | "All parts" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(_Finish(*given)).with_output_types(int)
        )


class _Step(beam.DoFn):
    """A step of a run, which reads what it needs from the run's directory."""

    def __init__(self, request: TrainingRequest, job: str, number: int = 0) -> None:
        self._request, self._job, self._number = request, job, number


class _Open(_Step):
    def process(self, _: int) -> Iterator[int]:
        from nnsparse_stream.rounds.rounds import open_rounds

        open_rounds(self._request, self._job)
        yield 0


class _Survey(_Step):
    def process(self, worker: int) -> Iterator[_Message]:
        from nnsparse_stream.rounds.rounds import survey_rows

        yield 0, _told(survey_rows(self._request, worker, self._job))


class _Begin(_Step):
    def process(self, keyed: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        from nnsparse_stream.rounds.rounds import begin_rounds

        begin_rounds(self._request, _heard(keyed), self._job)
        yield 0


class _Train(_Step):
    def process(self, worker: int) -> Iterator[_Message]:
        from nnsparse_stream.rounds.round_worker import train_round

        told = train_round(self._request, self._number, worker, self._job)
        # Each part hears of its own change, and the first one the rest, too.
        yield 0, _told(told and {**told, "change": told["changes"][0]})
        for part, change in enumerate(told["changes"] if told else ()):
            if part:
                yield part, _told({"worker": worker, "change": change})


class _Merge(_Step):
    def process(self, keyed: tuple[int, Iterable[bytes]]) -> Iterator[_Message]:
        from nnsparse_stream.rounds.rounds import merge_round

        yield 0, _told(merge_round(self._request, self._number, keyed[0], _heard(keyed), self._job))


class _Finish(_Step):
    def process(self, keyed: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        from nnsparse_stream.rounds.rounds import finish_round

        finish_round(self._request, self._number, _heard(keyed), self._job)
        yield 0


class _Judge(_Step):
    def process(self, worker: int) -> Iterator[_Message]:
        from nnsparse_stream.rounds.round_worker import judge_share

        yield 0, _told(judge_share(self._request, self._number, worker, self._job))


class _FinishEpoch(_Step):
    def process(self, keyed: tuple[int, Iterable[bytes]] | int) -> Iterator[int]:
        from nnsparse_stream.rounds.round_epochs import finish_epoch

        judged = [] if isinstance(keyed, int) else _heard(keyed)
        finish_epoch(self._request, self._number, [part for one in judged for part in one or ()], self._job)
        yield 0


class _Complete(_Step):
    def process(self, _: int) -> Iterator[dict[str, Any]]:
        from nnsparse_stream.rounds.round_worker import HELD
        from nnsparse_stream.rounds.rounds import complete_rounds

        HELD.forget(self._request.output)
        yield complete_rounds(self._request, self._job)


def _told(value: Any) -> bytes:
    return json.dumps(value).encode()


def _heard(keyed: tuple[int, Iterable[bytes]]) -> list[Any]:
    return [json.loads(one) for one in keyed[1]]
