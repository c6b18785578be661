"""Hints stand at the steps that run a model, and at no others; that an engine reads them is the engine's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from runs import request
from samples import Trained

from nnsparse_stream.errors import InputError
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines.cli import main, parser_for
from nnsparse_stream.pipelines.evaluate import _write
from nnsparse_stream.pipelines.options import model_worker
from nnsparse_stream.transforms.model_worker import ModelWorker

GPU = "type:nvidia-l4;count:1;install-nvidia-driver"
HINTS = {"beam:resources:accelerator:v1": GPU.encode(), "beam:resources:min_ram_bytes:v1": b"16000000000"}
FLAGS = ["--accelerator", GPU, "--min_ram", "16GB"]


def hinted(build: Callable[[beam.Pipeline], Any]) -> set[str]:
    """Names of the steps of a pipeline that have hints, each all of them."""
    pipeline = beam.Pipeline()
    build(pipeline)
    return hinted_steps(pipeline.to_runner_api().components)


def hinted_steps(components: Any) -> set[str]:
    """The same of a pipeline that is built."""
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
@pytest.mark.parametrize("here", [(), ("--runner=DirectRunner", "--direct_running_mode=multi_processing")])
def test_hints_that_nobody_reads_are_refused(
    trained: Trained, tmp_path: Any, capsys: pytest.CaptureFixture[str], flags: tuple[str, str], here: tuple[str, ...]
) -> None:
    assert main(["train", "--data", trained.data, "--output", str(tmp_path / "run"), *flags, *here]) == 2
    assert f"{flags[0]} is for the workers of an engine: name one by --runner" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("runner", "told"), [("DataflowRunner", 0), ("PrismRunner", 1)])
def test_it_is_said_where_an_engine_may_not_read_hints(
    capsys: pytest.CaptureFixture[str], runner: str, told: int
) -> None:
    args = parser_for("evaluate").parse_args(["--model", "run", *FLAGS])
    assert model_worker(args, [f"--runner={runner}"]) == ModelWorker("auto", GPU, "16GB")
    error = capsys.readouterr().err
    assert error.count("\n") == error.count("--accelerator and --min_ram: of Beam's runners, Dataflow's reads") == told


def test_hints_change_nothing_in_process(trained: Trained, tmp_path: Any) -> None:
    from nnsparse_stream.pipelines.running import run_pipeline
    from nnsparse_stream.transforms import EvaluateRatings

    found = []
    for worker in (ModelWorker(), ModelWorker("cpu", GPU, "16GB")):
        evaluate = EvaluateRatings(trained.run, trained.data, "test", worker=worker)
        url = str(tmp_path / f"{len(found)}.json")
        run_pipeline(lambda p, evaluate=evaluate, url=url: p | evaluate | beam.Map(_write, url), [])
        found.append(Path(url).read_bytes())
    assert found[0] == found[1]


def test_the_job_for_dataflow_has_hints_where_a_model_runs(trained: Trained, tmp_path: Any) -> None:
    """By the dry run of Beam's runner, after its own rewriting of the graph."""
    pytest.importorskip("google.cloud.dataflow", reason="no client of Dataflow; the extra dev has it")
    from nnsparse_stream.pipelines.running import run_pipeline
    from nnsparse_stream.transforms import EvaluateRatings, ScoreRatings, TrainAutoencoder
    from nnsparse_stream.transforms.score import ShardsToScore

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | TrainAutoencoder(request(trained, tmp_path / "run"), asked)
        _ = pipeline | EvaluateRatings(trained.run, trained.data, "test", worker=asked)
        score = ScoreRatings(trained.run, str(tmp_path), 2, top_k=3, folds=[0], worker=asked)
        _ = pipeline | ShardsToScore(trained.data) | score

    asked = worker("evaluate", "--model", trained.run)
    flags = ["--project=my-project", "--region=europe-west1", "--sdk_location=container", "--sdk_container_image=image"]
    places = [f"--{name}_location=gs://my-bucket/{name}" for name in ("staging", "temp")]
    job = run_pipeline(build, ["--runner=DataflowRunner", *flags, *places, "--dry_run=True"]).job
    assert hinted_steps(job.proto_pipeline.components) == {
        "TrainAutoencoder/ParDo(_Train)",
        "EvaluateRatings/Judge/ParDo(_JudgeShard)",
        "ScoreRatings/Score",
    }
