"""Sums of a closed form by workers: the run is the one that this process makes, however the shards are grouped."""

from __future__ import annotations

import json
from pathlib import Path

import apache_beam as beam
import pytest
from runs import request
from samples import Trained
from shuffles import coders_of_shuffles, falls_back

import nnsparse_stream.transforms.coders
from nnsparse_stream.errors import InputError
from nnsparse_stream.nn import gram
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.pipelines.running import IN_PROCESS_RUNNER, run_pipeline
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.start import train
from nnsparse_stream.transforms import closed_form
from nnsparse_stream.transforms.train import TrainAutoencoder

LINEAR = recipe("linear")


def files_of(run: Path) -> dict[str, bytes]:
    """All files of a run, but for what says how long it took, and who made it."""
    found = {name: storage.read_file(storage.join(str(run), name)) for name in storage.list_files(str(run))}
    state = next(name for name in found if name.endswith("state.json"))
    return {name: found[name] for name in found if name not in ("metrics.jsonl", "run.json", "report.html", state)}


@pytest.mark.parametrize("groups", [1, 2, 16])
def test_workers_make_the_model_that_one_process_makes(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int
) -> None:
    monkeypatch.setattr(closed_form, "_GROUPS", groups)
    monkeypatch.setattr(gram, "PART_CELLS", 500)
    alone, together = tmp_path / "alone", tmp_path / "together"
    train(request(trained, alone, recipe=LINEAR))
    run_pipeline(lambda pipeline: pipeline | TrainAutoencoder(request(trained, together, recipe=LINEAR)), [])
    assert files_of(together) == files_of(alone)
    one, other = (json.loads((run / "metrics.jsonl").read_text()) for run in (alone, together))
    assert one["train"] == other["train"]
    assert one["validation"] == other["validation"]


def test_no_shuffled_element_falls_back_to_pickle(trained: Trained, tmp_path: Path) -> None:
    nnsparse_stream.transforms.coders.register()
    pipeline = beam.Pipeline(IN_PROCESS_RUNNER)
    _ = pipeline | TrainAutoencoder(request(trained, tmp_path / "run", recipe=LINEAR))
    assert not [label for label, parts in coders_of_shuffles(pipeline).items() if falls_back(parts)]


def test_an_earlier_run_stays_where_the_matrix_is_too_large(trained: Trained, tmp_path: Path) -> None:
    train(request(trained, tmp_path / "run", recipe=recipe("linear")))
    before = files_of(tmp_path / "run")
    small = request(trained, tmp_path / "run", recipe=recipe("linear", matrix_gb=1e-6), overwrite=True)
    with pytest.raises(InputError, match=r"pairs of 60 columns .*, more than `matrix_gb` 1e-06: .* ranking"):
        train(small)
    with pytest.raises(InputError, match="all pairs of 60 columns"):
        run_pipeline(lambda pipeline: pipeline | TrainAutoencoder(small), [])
    assert files_of(tmp_path / "run") == before
    assert (tmp_path / "run" / "run.json").exists()
