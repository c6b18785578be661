"""A data set or a model from elsewhere runs no code: a pickle in place of any of its files is an error, not opened."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
from samples import Trained

from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError


class _Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


def read(data: Path, run: Path) -> None:
    dataset = Dataset(str(data))
    dataset.vocabulary()
    assert list(dataset.batches())
    assert load_model(str(run)).vocabulary


def test_no_file_of_a_data_set_or_a_run_is_unpickled(trained: Trained, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    data, run = (Path(shutil.copytree(url, tmp_path / name)) for name, url in (("d", trained.data), ("r", trained.run)))
    read(data, run)
    last = max((run / "checkpoints").iterdir())
    whole = [*data.rglob("*.parquet"), data / "manifest.json", *last.glob("model-*"), last / "state.json"]
    whole += [run / "run.json", *(run / "columns").iterdir()]
    assert len(whole) > 7
    bad = pickle.dumps(_Touch(opened))
    for path in whole:
        held = path.read_bytes()
        # As long as what was there, too: the length is the first thing that is compared.
        for text in (bad, bad.ljust(len(held), b"\0")[: max(len(held), len(bad))]):
            path.write_bytes(text)
            with pytest.raises(InputError):
                read(data, run)
        path.write_bytes(held)
    read(data, run)
    assert not opened.exists()
    pickle.loads(bad)
    assert opened.exists()
