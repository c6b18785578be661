"""In how many parts a model is."""

from __future__ import annotations

import pytest
import torch

from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig
from nnsparse_stream.training.parts import num_parts, part_tensors


@pytest.mark.parametrize(
    ("columns", "workers", "parts"),
    [
        (1, 64, 1),  # nothing to divide
        (27_000, 1, 2),  # 111 MB: no part has more than 64 MiB
        (27_000, 2, 2),
        (27_000, 3, 3),  # one for each who merges
        (140_000, 4, 12),  # 575 MB are nine parts, and no worker merges one more than others
        (27_000, 1000, 26),  # and none has less than 4 MiB
    ],
)
def test_all_workers_have_as_many_parts_to_merge(columns: int, workers: int, parts: int) -> None:
    with torch.device("meta"):
        model = RankingAutoencoder(RankingConfig(columns, columns, 512))
    assert num_parts(model, workers) == parts
    sizes = [sum(held.nbytes for held in part_tensors(model, p, parts).values()) for p in range(parts)]
    assert max(sizes) < 65 << 20
    assert sum(sizes) == sum(held.nbytes for held in model.state_dict().values())
