"""Row groups in any order: each shard is opened once, and what is read is what the data set holds."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from samples import Trained

from nnsparse_stream.data import dataset as dataset_module
from nnsparse_stream.data.dataset import Dataset, write_shard, write_vocabulary
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


@pytest.mark.parametrize("readers", [1, 4])
@pytest.mark.parametrize("open_shards", [1, 3])
def test_each_shard_is_opened_once_where_that_many_may_be_open(
    dataset: Dataset, readers: int, open_shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    open_input = storage.open_input

    def counted(url: str) -> object:
        opened[url] += 1
        return open_input(url)

    monkeypatch.setattr(dataset_module.storage, "open_input", counted)
    places = [(shard, group) for shard in range(3) for group in range(len(dataset.shards[shard].row_groups))]
    assert len(places) > 12
    random.Random(0).shuffle(places)
    reader = ShardReader(dataset, open_shards)
    for _ in range(2):
        with ThreadPoolExecutor(readers) as pool:
            found = list(pool.map(lambda place: reader.read(*place), places))
    assert len(reader._idle) == open_shards
    if open_shards == 3:
        # Readers that want one shard at a time each open it.
        assert 3 <= opened.total() <= 3 * readers
    reader.close()
    monkeypatch.undo()
    for place, batch in zip(places, found, strict=True):
        assert batch.equals(dataset.read_row_group(*place).select(["columns", "values", "fold"]))
