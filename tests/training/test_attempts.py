"""Attempts of one job: a run that an engine makes again goes on from its last checkpoint by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from runs import assert_same_run, request
from samples import Trained, contents

from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines.running import run_pipeline
from nnsparse_stream.training.progress import Progress
from nnsparse_stream.training.start import train
from nnsparse_stream.transforms import TrainAutoencoder
from nnsparse_stream.transforms import train as train_transform


class Killed(BaseException):
    """What ends an attempt as the end of its process would: nothing is tidied up after a checkpoint."""


class Killing(Progress):
    """Ends a run after so many minibatches, and counts them."""

    def __init__(self, after: int) -> None:
        self.left, self.trained = after, 0

    def batch_trained(self, sums: dict[str, Any], figures: Any) -> None:
        self.trained += 1
        if self.trained == self.left:
            raise Killed


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(request(trained, run))
    return run


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_attempt_goes_on_from_the_last_checkpoint_of_the_one_before(
    trained: Trained, whole: Path, tmp_path: Path, overwrite: bool
) -> None:
    run = tmp_path / "run"
    if overwrite:
        train(request(trained, run, recipe=recipe("cfn", hidden=(4,), epochs=1)))
    asked = request(trained, run, overwrite=overwrite, checkpoint_steps=4)
    steps = Killing(0)
    train(request(trained, tmp_path / "counted"), progress=steps)
    first, second, last = Killing(7), Killing(6), Killing(0)
    for progress in (first, second):
        with pytest.raises(Killed):
            train(asked, progress=progress, job="one")
    with pytest.raises(InputError, match="holds a run that did not finish; pass `resume` to go on, or `overwrite`"):
        train(request(trained, run), job="two")
    train(asked, progress=last, job="one")
    assert_same_run(run, whole)
    # Minibatches 1 to 7, again from 5 to 10, again from 9 on.
    assert last.trained == steps.trained - 8
    # An attempt whose end was lost on the way to the engine is made again, too.
    before = contents(str(run))
    assert train(asked, job="one")["job"] == "one"
    assert contents(str(run)) == before
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):
        train(request(trained, run), job="two")


def test_an_attempt_that_ended_before_its_first_checkpoint_is_made_again(
    trained: Trained, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("nnsparse_stream.training.start.OutputDirectory.abort", lambda self: None)
        with pytest.raises(Killed):
            train(request(trained, run), progress=Killing(2), job="one")
    assert list(contents(str(run))) == ["_unfinished.json", "columns/part-00000-of-00001.parquet", "metrics.jsonl"]
    train(request(trained, run), job="one")
    assert_same_run(run, whole)


def test_a_bundle_that_is_made_again_is_the_same_run(
    trained: Trained, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = train_transform._Train.process

    def made_again(self: Any, asked: Any) -> Iterator[dict[str, Any]]:
        with pytest.raises(Killed):
            train(asked, progress=Killing(20), job=self._job)
        return process(self, asked)

    monkeypatch.setattr(train_transform._Train, "process", made_again)
    run = tmp_path / "run"
    run_pipeline(lambda pipeline: pipeline | TrainAutoencoder(request(trained, run)), [])
    assert_same_run(run, whole)
    pipeline = beam.Pipeline()
    with pytest.raises(InputError, match="exists already; pass `overwrite`"):  # when it is built
        _ = pipeline | TrainAutoencoder(request(trained, run))
