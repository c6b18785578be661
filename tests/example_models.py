"""A small model of every kind, for what all kinds keep to."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nnsparse_stream.nn.autoencoder import AutoencoderConfig, RatingAutoencoder
from nnsparse_stream.nn.linear import LinearConfig, LinearItemModel
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking_model import RankingAutoencoder, RankingConfig

COLUMNS = 9


def autoencoder(seed: int = 1) -> Model:
    config = AutoencoderConfig(COLUMNS, (4, 3), mean=3.5, rating_min=1.0, rating_max=5.0, row_offset=True)
    return RatingAutoencoder(config, torch.Generator().manual_seed(seed))


def with_features(seed: int = 1) -> Model:
    """As many hidden units, and as many features, as columns; large matrices in bfloat16."""
    sizes = {"hidden": (COLUMNS,), "presence": True, "num_features": COLUMNS, "feature_scale": 1.0}
    config = AutoencoderConfig(COLUMNS, storage="bfloat16", **sizes)
    return RatingAutoencoder(config, torch.Generator().manual_seed(seed))


def linear(seed: int = 1) -> Model:
    weights = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)).fill_diagonal_(0)
    return LinearItemModel(LinearConfig(COLUMNS, trained_columns=8, trained_rows=5), weights)


def ranking(seed: int = 1) -> Model:
    config = RankingConfig(COLUMNS, 3, 4, code_power=0.5)
    return RankingAutoencoder(config, torch.Generator().manual_seed(seed))


def of_unit_rows(seed: int = 1) -> Model:
    config = RankingConfig(COLUMNS, 3, 4, tied=True, temperature=15.0)
    return RankingAutoencoder(config, torch.Generator().manual_seed(seed))


#: One of each kind in `nn.models`.
EXAMPLES: dict[str, Callable[[], Model]] = {"autoencoder": autoencoder, "ranking": ranking, "linear": linear}
#: These, and others of the same kinds that have other tensors; each takes a seed.
VARIANTS: dict[str, Callable[[int], Model]] = {
    "autoencoder": autoencoder,
    "with features": with_features,
    "linear": linear,
    "ranking": ranking,
    "of unit rows": of_unit_rows,
}
