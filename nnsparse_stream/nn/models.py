"""The kinds of model that a checkpoint may hold, by name: the one place that knows them."""

from __future__ import annotations

from nnsparse_stream.nn.autoencoder import RatingAutoencoder
from nnsparse_stream.nn.linear import LinearItemModel
from nnsparse_stream.nn.model import Model
from nnsparse_stream.nn.ranking_model import RankingAutoencoder

MODELS: dict[str, type[Model]] = {
    model.kind: model for model in (RatingAutoencoder, RankingAutoencoder, LinearItemModel)
}
