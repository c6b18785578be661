"""Beam transforms: each a thin shell over a pure function of Arrow blocks. Names resolve on first use.

Preparing needs no torch, so nothing here imports it before a transform that trains or scores is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsparse_stream.transforms.evaluate import EvaluateBlend as EvaluateBlend
    from nnsparse_stream.transforms.evaluate import EvaluateRatings as EvaluateRatings
    from nnsparse_stream.transforms.filters import FilterRatings as FilterRatings
    from nnsparse_stream.transforms.fit_blend import FitBlend as FitBlend
    from nnsparse_stream.transforms.folds import AssignFolds as AssignFolds
    from nnsparse_stream.transforms.prepare_shards import PrepareShards as PrepareShards
    from nnsparse_stream.transforms.read import ReadRatings as ReadRatings
    from nnsparse_stream.transforms.score import ScoreRatings as ScoreRatings
    from nnsparse_stream.transforms.score_blend import BlendPairs as BlendPairs
    from nnsparse_stream.transforms.score_blend import RankBlend as RankBlend
    from nnsparse_stream.transforms.score_rows import AutoencoderModelHandler as AutoencoderModelHandler
    from nnsparse_stream.transforms.score_rows import ScoreRows as ScoreRows
    from nnsparse_stream.transforms.shards import WriteShards as WriteShards
    from nnsparse_stream.transforms.sparsify import SparsifyRatings as SparsifyRatings
    from nnsparse_stream.transforms.train import TrainAutoencoder as TrainAutoencoder
    from nnsparse_stream.transforms.train_grid import TrainGrid as TrainGrid
    from nnsparse_stream.transforms.vocabulary import BuildVocabulary as BuildVocabulary

_MODULE_OF = {
    "AssignFolds": "folds",
    "AutoencoderModelHandler": "score_rows",
    "BlendPairs": "score_blend",
    "BuildVocabulary": "vocabulary",
    "EvaluateBlend": "evaluate",
    "EvaluateRatings": "evaluate",
    "FilterRatings": "filters",
    "FitBlend": "fit_blend",
    "PrepareShards": "prepare_shards",
    "RankBlend": "score_blend",
    "ReadRatings": "read",
    "ScoreRatings": "score",
    "ScoreRows": "score_rows",
    "SparsifyRatings": "sparsify",
    "TrainAutoencoder": "train",
    "TrainGrid": "train_grid",
    "WriteShards": "shards",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'nnsparse_stream.transforms' has no attribute {name!r}")
    importlib.import_module("nnsparse_stream.transforms.coders").register()
    value = getattr(importlib.import_module(f"nnsparse_stream.transforms.{module}"), name)
    globals()[name] = value
    return value
