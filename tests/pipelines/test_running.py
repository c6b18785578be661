"""What a command leaves at its output when an engine's job fails, or when nobody knows how it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from apache_beam.runners.runner import PipelineResult, PipelineRunner, PipelineState
from preparing import files_of, prepare

from nnsparse_stream.pipelines import running


class _Ended(PipelineResult):
    """A job on an engine, of which this process learns how it ended."""

    def wait_until_finish(self, duration: int | None = None) -> str:
        raise RuntimeError("the job failed: nnsparse_stream.errors.InputError: a.csv:3: rating is no number")


class _Lost(_Ended):
    """A job of which it learns no more."""

    @property
    def state(self) -> str:
        raise ConnectionError("connection refused")


class EndedRunner(PipelineRunner):
    """An engine whose jobs fail."""

    result: Any = _Ended

    def run_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        return self.result(PipelineState.FAILED)


class LostRunner(EndedRunner):
    """An engine that does not answer any more; the last that it said is that a worker had failed, once."""

    result = _Lost


class UnreachedRunner(PipelineRunner):
    """An engine whose answer to the submission is lost."""

    def run_pipeline(self, pipeline: Any, options: Any) -> PipelineResult:
        raise ConnectionError("deadline exceeded")


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("user,item,rating\n" + "\n".join(f"{n % 7},{n},{n % 5}" for n in range(40)))
    return ["--input", "log.csv", "--axis", "user", "--output"]


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        (LostRunner, "the job does not answer; it may go on: end it on the engine"),
        (UnreachedRunner, "deadline exceeded"),
    ],
)
def test_a_job_that_may_go_on_leaves_the_marker_and_the_next_run_begins_anew(
    flags: list[str], capsys: pytest.CaptureFixture[str], runner: type, message: str
) -> None:
    assert prepare(*flags, "expected") == 0
    assert prepare(*flags, "data", "--num_shards", 2) == 0
    assert prepare(*flags, "data", "--overwrite", f"--runner={__name__}.{runner.__name__}") == 1
    assert message in capsys.readouterr().err
    assert list(files_of("data")) == ["_unfinished.json"]
    Path("data/rows").mkdir()
    Path("data/rows/shard-00001-of-00002.parquet").write_bytes(b"what the job wrote after that")
    assert prepare(*flags, "data") == 0
    assert files_of("data") == files_of("expected")


def test_a_job_that_is_over_leaves_nothing(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(*flags, "data", f"--runner={__name__}.EndedRunner") == 2
    assert capsys.readouterr().err == "nnsparse-stream prepare: a.csv:3: rating is no number\n"
    assert not Path("data").exists()


def test_a_job_without_end_is_given_up_when_its_engine_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_SILENT_SECONDS", 0.1)
    with pytest.raises(running.JobLostError, match="the job does not answer; it may go on"):
        running.run_pipeline(lambda _: None, [f"--runner={__name__}.LostRunner"], has_ended=lambda: False)
