"""The way to the training device: what arrives is what was written, also from buffers that are used again."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.feeding.device_feed import Feed, PinnedFeed, feed_to
from nnsparse_stream.feeding.fold_cache import PLACES
from nnsparse_stream.feeding.stream import TrainingStream
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.sparse.rows import SparseRows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def send(feed: Feed, number: int, size: int = 100_000):
    """One row of `size` entries, all of the column and the value `number`."""

    def write(buffer):
        buffer[:2] = 0, size
        buffer[2 : 2 + size] = number
        buffer[2 + size :].view(np.float32)[:] = number

    def make(buffer):
        return SparseRows(buffer[:2], buffer[2 : 2 + size], buffer[2 + size :].view(torch.float32), 1000)

    return feed.send(2 + 2 * size, write, make)


def test_on_the_cpu_what_is_written_stays_where_it_is():
    feed = feed_to(torch.device("cpu"), 1)
    sent = send(feed, 7, 3)
    rows = feed.receive(sent)
    assert rows is sent.made
    assert rows.equal(SparseRows(torch.tensor([0, 3]), torch.tensor([7, 7, 7]), torch.tensor([7.0, 7, 7]), 1000))


@needs_gpu
def test_a_buffer_is_used_again_after_the_copy_from_it():
    device = torch.device("cuda")
    feed = feed_to(device, 2)
    assert isinstance(feed, PinnedFeed)
    with torch.cuda.stream(feed._stream):
        torch.cuda._sleep(200_000_000)  # the first copies come late
    with ThreadPoolExecutor(4) as pool:
        sent = list(pool.map(lambda number: send(feed, number, 100_000 + 10 * number), range(40)))
    for number, one in enumerate(sent):
        rows = feed.receive(one)
        assert (rows.columns == number).all()
        assert (rows.values == number).all()


@needs_gpu
def test_memory_that_was_given_up_is_free_after_the_training_streams_work():
    feed = feed_to(torch.device("cuda"), 2)
    rows = feed.receive(send(feed, 1))
    torch.cuda._sleep(200_000_000)
    total = rows.values.sum()
    del rows
    for number in range(2, 20):
        send(feed, number)  # takes the memory of the first, if that counted as free
    assert float(total) == 100_000


@needs_gpu
@pytest.mark.parametrize("cache", PLACES)
def test_minibatches_on_a_gpu_are_those_of_the_cpu_and_nobody_waits(trained, cache):
    """Also those of heavy rows, and in the epoch that reads no file."""
    dataset, batchifier = Dataset(trained.data), Batchifier(7, 12)
    on_cpu = TrainingStream(dataset, 5, batchifier, torch.device("cpu"))
    on_gpu = TrainingStream(dataset, 5, batchifier, torch.device("cuda"), cache)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = [minibatch and (minibatch.rows, minibatch.after) for minibatch in on_gpu.epochs(1, 2)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(on_cpu.epochs(1, 2), got, strict=True):
        assert (one is None) == (other is None)
        if one and other:
            assert other[1] == one.after
            assert other[0].to("cpu").equal(one.rows)
