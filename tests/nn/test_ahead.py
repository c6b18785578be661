"""Blocks are worked on in order: when they are asked for on the CPU, one ahead on a GPU, by any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from elsewhere import DEVICE, elsewhere
from torch import Tensor

from nnsparse_stream.nn.ahead import ahead, sent
from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking import Eligible, best_columns
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.sparse.rows import SparseRows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def in_order(device: torch.device) -> tuple[list[str], list[float]]:
    """What is done when, of three blocks, and their results."""
    events, results = [], []

    def blocks() -> Iterator[int]:
        for number in range(3):
            events.append(f"read {number}")
            yield number

    def work(number: int) -> tuple[Tensor]:
        assert not torch.is_grad_enabled()
        events.append(f"work {number}")
        return (sent(torch.full((2,), float(number)), device) + 1,)

    for number, (result,) in ahead(blocks(), work, device):
        assert result.device == CPU
        events.append(f"use {number}")
        results.append(result.sum().item())
    return events, results


def test_on_the_cpu_a_block_is_read_when_the_one_before_is_used() -> None:
    events = [f"{what} {number}" for number in range(3) for what in ("read", "work", "use")]
    assert in_order(CPU) == (events, [2.0, 4.0, 6.0])


@needs_gpu
def test_on_a_gpu_the_next_block_is_queued_before_one_is_used() -> None:
    events = ["read 0", "work 0", "read 1", "work 1", "use 0", "read 2", "work 2", "use 1", "use 2"]
    assert in_order(GPU) == (events, [2.0, 4.0, 6.0])


@pytest.mark.parametrize("device", [CPU, pytest.param(GPU, marks=needs_gpu)])
def test_no_blocks_have_no_results(device: torch.device) -> None:
    assert list(ahead([], lambda _: (), device)) == []


def models(device: torch.device = GPU) -> Iterator[Model]:
    """Models of 5,000 columns of which the last has no training entry."""
    generator = torch.Generator().manual_seed(1)
    config = AutoencoderConfig(5000, (16,), output_activation="identity", input_scale=3.0, row_offset=True)
    for model in (
        RatingAutoencoder(config, generator, initial_std=0.2),
        RatingAutoencoder(AutoencoderConfig(5000, (16,), storage="bfloat16"), generator),
        RankingAutoencoder(RankingConfig(5000, 100, 16), generator),
    ):
        model.column_counts[:-1] = 3
        yield model.to(device)


def rows(number: int) -> SparseRows:
    generator = torch.Generator().manual_seed(number)
    columns = torch.randint(5000, (30 * 8,), generator=generator).view(30, 8).sort(1).values.flatten()
    return SparseRows(torch.arange(0, 241, 8), columns, torch.rand(240, generator=generator), 5000)


def test_scores_stay_on_their_device_and_nothing_waits_for_it() -> None:
    for model in models(DEVICE):
        known = rows(1).to(DEVICE)
        with elsewhere(waits=True):
            counts = model.host_counts
        counts[-1] = 0
        with elsewhere():
            found = *model.top_k(known, 50), model.predict_at(known, known)
        assert {tensor.device for tensor in found} == {DEVICE}


@needs_gpu
def test_threads_that_share_a_gpu_get_what_each_would_get_alone() -> None:
    for model in models():

        def lists(seed: int, model: Model = model) -> list[Tensor]:
            blocks = [rows(10 * seed + number) for number in range(5)]
            found = ahead(blocks, lambda block: model.top_k(sent(block, GPU), 50), GPU)
            return [tensor.clone() for _, result in found for tensor in result]

        alone = [lists(seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lists, range(4)))
        for expected, found in zip(alone, together, strict=True):
            assert all(map(torch.equal, expected, found))


@needs_gpu
def test_no_block_waits_for_the_gpu() -> None:
    for model in models():
        known = rows(1).to(GPU)
        eligible = Eligible(model.column_counts > 0, model.host_counts > 0)
        best_columns(model.tiles(known), known, eligible, 50)  # compiles
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            best_columns(model.tiles(sent(rows(2), GPU)), known, eligible, 50)
            model.top_k(known, 50)
            model.predict_at(known, known)
        finally:
            torch.cuda.set_sync_debug_mode(before)
