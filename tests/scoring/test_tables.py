"""Tables of scores: their order, and the memory that ranking takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_model
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.scoring.tables import TOP_K_BYTES, pair_table, top_k_tables


def test_pairs_are_ordered_by_their_ids_whatever_order_they_come_in(trained) -> None:
    checkpoint, dataset = load_model(trained.run), Dataset(trained.data)
    rows = [row for batch in dataset.shard_batches(0) for row in batch["row"].to_pylist()]
    rows = [*rows[:20], "~nobody", "", rows[0]]
    columns = [*checkpoint.vocabulary.ids.to_pylist()[:5], "unheard-of"]
    pairs = pa.table({"row": np.repeat(rows, len(columns)), "column": columns * len(rows)})
    shuffled = pairs.take(np.random.default_rng(1).permutation(len(pairs)))
    one, two = (pair_table(checkpoint, dataset.shard_batches(0), some, (0,)) for some in (pairs, shuffled))
    assert one.equals(two)
    ids = list(zip(one["row_id"].to_pylist(), one["column_id"].to_pylist(), strict=True))
    assert ids == sorted((row, column) for row in rows for column in columns)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_tables_of_the_cpu(trained) -> None:
    dataset, on = Dataset(trained.data), {device: load_model(trained.run) for device in ("cpu", "cuda")}
    for device, checkpoint in on.items():
        checkpoint.model.to(device)
    pairs = pa.table({"row": ["~nobody", *next(iter(dataset.shard_batches(0)))["row"].to_pylist()]})
    pairs = pairs.append_column("column", pa.array([on["cpu"].vocabulary.ids[0].as_py()] * len(pairs)))
    for make in (
        lambda checkpoint: pa.concat_tables(top_k_tables(checkpoint, dataset.shard_batches(0), 10, (0,))),
        lambda checkpoint: pair_table(checkpoint, dataset.shard_batches(0), pairs, (0,)),
    ):
        expected, found = make(on["cpu"]), make(on["cuda"])
        assert found["row_id"].equals(expected["row_id"])
        np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), rtol=1e-4)


def memory(what: str) -> int:
    """Bytes of this process: now ("VmRSS"), or at the peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.mark.parametrize("k", [10, 2_000])
@pytest.mark.parametrize("scores", ["distinct", "equal"])
def test_ranking_keeps_its_bound_of_memory(k: int, scores: str) -> None:
    num_columns = 32_768
    model = RatingAutoencoder(AutoencoderConfig(num_columns, (4,)))
    model.column_counts.fill_(1)
    if scores == "equal":
        model.decoder.data.zero_()
        model.decoder_bias.data.zero_()
    vocabulary = Vocabulary(pa.array(np.arange(num_columns)), np.ones(num_columns, dtype=np.int64))
    checkpoint = Checkpoint("", {}, model)
    checkpoint.vocabulary = vocabulary
    lists = {
        name: pa.array([[1, 2, 3]] * 1280, pa.list_(kind))
        for name, kind in (("columns", pa.int32()), ("values", pa.float32()), ("fold", pa.uint8()))
    }
    batch = pa.record_batch({"row": np.arange(1280), **lists})
    with torch.no_grad():
        next(iter(top_k_tables(checkpoint, [batch.slice(0, 2)], k, (1, 2, 3))))
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
        except OSError:
            pytest.skip("this system does not tell the peak of a stretch of work")
        before = memory("VmRSS")
        ranked = sum(len(table) for table in top_k_tables(checkpoint, [batch], k, (1, 2, 3)))
    assert ranked == 1280 * k
    assert memory("VmHWM") - before <= TOP_K_BYTES
