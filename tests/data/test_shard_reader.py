"""Row groups in any order: no shard is opened more often than needed, and what is read is what the data set holds."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from samples import Trained

from nnsparse_stream.data import dataset as dataset_module
from nnsparse_stream.data import shard_reader
from nnsparse_stream.data.dataset import Dataset, read_group, write_shard, write_vocabulary
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.data.shard_reader import ShardReader
from nnsparse_stream.storage import files as storage


@pytest.fixture(scope="module")
def dataset(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The sample with row groups of 500 entries."""
    whole, url = Dataset(trained.data), str(tmp_path_factory.mktemp("data"))
    fields = {name: getattr(whole.manifest, name) for name in Manifest.__dataclass_fields__}
    shards = tuple(
        write_shard(
            url, shard, 3, pa.Table.from_batches(whole.shard_batches(shard)).combine_chunks().to_batches()[0], 500
        )
        for shard in range(3)
    )
    manifest = Manifest(**{**fields, "shards": shards, "columns": (write_vocabulary(url, whole.vocabulary()),)})
    storage.write_file(storage.join(url, "manifest.json"), manifest.to_json())
    return Dataset(url)


def _count(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is opened from now on, until the patch is undone."""
    opened: Counter[str] = Counter()
    open_input = storage.open_input

    def counted(url: str) -> object:
        opened[url] += 1
        return open_input(url)

    monkeypatch.setattr(dataset_module.storage, "open_input", counted)
    return opened


def _read_twice_at_once(reader: ShardReader, shard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads read the shard, neither before the other has opened it."""
    together = threading.Barrier(2, timeout=60)

    def meet(*arguments: Any) -> pa.RecordBatch:
        together.wait()
        return read_group(*arguments)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(shard_reader, "read_group", meet)
        list(pool.map(lambda group: reader.read(shard, group), range(2)))


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("open_files", [1, 12])
def test_each_shard_is_opened_once_for_each_reader_where_that_many_may_be_open(
    dataset: Dataset, readers: int, open_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _count(monkeypatch)
    places = [(shard, group) for shard in range(3) for group in range(len(dataset.shards[shard].row_groups))]
    assert len(places) > 12
    random.Random(0).shuffle(places)
    reader = ShardReader(dataset, open_files)
    for _ in range(2):
        with ThreadPoolExecutor(readers) as pool:
            found = list(pool.map(lambda place: reader.read(*place), places))
    assert len(reader._idle) <= open_files
    if open_files == 12:
        assert len(opened) == 3
        assert max(opened.values()) <= readers
    reader.close()
    monkeypatch.undo()
    for place, batch in zip(places, found, strict=True):
        assert batch.equals(dataset.read_row_group(*place).select(["columns", "values", "fold"]))


def test_readers_of_one_shard_that_meet_again_and_again_open_it_no_more(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, reader = _count(monkeypatch), ShardReader(dataset)
    for _ in range(5):
        _read_twice_at_once(reader, 0, monkeypatch)
    reader.close()
    assert opened.total() == 2


def test_the_second_file_of_a_shard_is_closed_before_the_only_one_of_another(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ShardReader(dataset, open_files=3)
    reader.read(0, 0)
    _read_twice_at_once(reader, 1, monkeypatch)
    opened = _count(monkeypatch)
    reader.read(2, 0)
    for shard in range(3):
        reader.read(shard, 0)
    reader.close()
    assert opened.total() == 1
