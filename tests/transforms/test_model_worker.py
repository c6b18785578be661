"""Hints stand at the steps that run a model, and at no others; that an engine reads them is the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from runs import request
from samples import Trained

from nnsparse_stream.errors import InputError
from nnsparse_stream.pipelines.cli import main, parser_for
from nnsparse_stream.pipelines.options import model_worker
from nnsparse_stream.training.presets import recipe
from nnsparse_stream.transforms.model_worker import ModelWorker

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
HINTS = {"beam:resources:accelerator:v1": GPU.encode(), "beam:resources:min_ram_bytes:v1": b"16000000000"}
FLAGS = ["--accelerator", GPU, "--min_ram", "16GB"]


def hinted(build: Callable[[beam.Pipeline], Any]) -> set[str]:
    """Names of the steps of a pipeline that have hints, each all of them."""
    pipeline = beam.Pipeline()
    build(pipeline)
    components = pipeline.to_runner_api().components
    found = set()
    for step in components.transforms.values():
        hints = dict(components.environments[step.environment_id].resource_hints) if step.environment_id else {}
        if hints and not step.subtransforms:
            assert hints == HINTS
            found.add(step.unique_name)
    return found


def worker(command: str, *flags: str) -> ModelWorker:
    return model_worker(parser_for(command).parse_args([*flags, *FLAGS]), ["--runner=DataflowRunner"])


@pytest.mark.parametrize(("preset", "step"), [("cfn", "ParDo(_Train)"), ("linear", "Solve")])
def test_train(trained: Trained, tmp_path: Any, preset: str, step: str) -> None:
    from nnsparse_stream.transforms import TrainAutoencoder

    asked = worker("train", "--data", trained.data, "--output", str(tmp_path))
    what = request(trained, tmp_path / "run", recipe=recipe(preset))
    assert hinted(lambda p: p | TrainAutoencoder(what, asked)) == {f"TrainAutoencoder/{step}"}


def test_evaluate_and_blend(trained: Trained, item_side: Trained) -> None:
    from nnsparse_stream.scoring.combination import Combination
    from nnsparse_stream.transforms import EvaluateBlend, EvaluateRatings, FitBlend

    asked = worker("evaluate", "--model", trained.run)
    one = hinted(lambda p: p | EvaluateRatings(trained.run, trained.data, "test", worker=asked))
    assert one == {"EvaluateRatings/Judge/ParDo(_JudgeShard)"}
    both = [trained.run, item_side.run], [trained.data, item_side.data]
    combination = Combination((0.5, 0.5))
    blend = hinted(lambda p: p | EvaluateBlend(*both, combination, "test", "user", worker=asked))
    assert blend == {"EvaluateBlend/PredictFold/Predict"}
    assert hinted(lambda p: p | FitBlend(*both, "user", asked)) == {"FitBlend/PredictFold/Predict"}


def test_score(trained: Trained, item_side: Trained, tmp_path: Any) -> None:
    from nnsparse_stream.scoring.combination import Combination
    from nnsparse_stream.transforms import BlendPairs, RankBlend, ScoreRatings
    from nnsparse_stream.transforms.score import ShardsToScore

    asked = worker("score", "--model", trained.run, "--output", str(tmp_path))
    score = ScoreRatings(trained.run, str(tmp_path), 2, top_k=3, folds=[0], worker=asked)
    assert hinted(lambda p: p | ShardsToScore(trained.data) | score) == {"ScoreRatings/Score"}
    blend = [trained.run, item_side.run], [trained.data, item_side.data], Combination((0.5, 0.5)), str(tmp_path)
    ranked = hinted(lambda p: p | RankBlend(*blend, top_k=3, folds=[0], worker=asked))
    assert ranked == {"RankBlend/Encode", "RankBlend/Rank"}
    pairs = pa.record_batch({"user": ["user-00298"], "item": ["horror-005"]})
    predicted = hinted(lambda p: p | beam.Create([pairs]) | BlendPairs(*blend, folds=[0], worker=asked))
    assert predicted == {"BlendPairs/Predict"}


def test_a_hint_that_beam_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match=r"`min_ram` much: "):
        ModelWorker(min_ram="much").runs(beam.DoFn())


@pytest.mark.parametrize("flags", [("--accelerator", GPU), ("--min_ram", "16GB")])
def test_hints_that_nobody_reads_are_refused(
    trained: Trained, tmp_path: Any, capsys: pytest.CaptureFixture[str], flags: tuple[str, str]
) -> None:
    assert main(["train", "--data", trained.data, "--output", str(tmp_path / "run"), *flags]) == 2
    assert f"{flags[0]} is for the workers of an engine: name one by --runner" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
