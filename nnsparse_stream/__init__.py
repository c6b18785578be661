"""Sparse autoencoders for rating prediction: sparse rows, layers, criteria, models, data sets, checkpoints.

Names resolve on first use, so that `import nnsparse_stream` costs nothing and preparation never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsparse_stream.checkpoints.checkpoint import load_model as load_model
    from nnsparse_stream.data.dataset import Dataset as Dataset
    from nnsparse_stream.data.manifest import Manifest as Manifest
    from nnsparse_stream.errors import InputError as InputError
    from nnsparse_stream.errors import StoreError as StoreError
    from nnsparse_stream.nn.autoencoder import RatingAutoencoder as RatingAutoencoder
    from nnsparse_stream.nn.batchifier import Batchifier as Batchifier
    from nnsparse_stream.nn.criteria import MaskCriterion as MaskCriterion
    from nnsparse_stream.nn.criteria import SDAECriterion as SDAECriterion
    from nnsparse_stream.nn.criteria import SDAESparseCriterion as SDAESparseCriterion
    from nnsparse_stream.nn.criteria import SparseCriterion as SparseCriterion
    from nnsparse_stream.nn.criteria import prepare_input as prepare_input
    from nnsparse_stream.nn.layers import Densify as Densify
    from nnsparse_stream.nn.layers import SampledLinear as SampledLinear
    from nnsparse_stream.nn.layers import SparseLinearBatch as SparseLinearBatch
    from nnsparse_stream.nn.layers import Sparsifier as Sparsifier
    from nnsparse_stream.nn.optimisers import RowAdagrad as RowAdagrad
    from nnsparse_stream.nn.optimisers import RowAdam as RowAdam
    from nnsparse_stream.nn.optimisers import RowSGD as RowSGD
    from nnsparse_stream.scoring.combination import Combination as Combination
    from nnsparse_stream.sparse.dynamic import DynamicSparseTensor as DynamicSparseTensor
    from nnsparse_stream.sparse.original import densify as densify
    from nnsparse_stream.sparse.original import sparsify as sparsify
    from nnsparse_stream.sparse.original import ssort as ssort
    from nnsparse_stream.sparse.original import ssort_by_index as ssort_by_index
    from nnsparse_stream.sparse.rows import SparseRows as SparseRows

_MODULE_OF = {
    "Batchifier": "nn.batchifier",
    "Combination": "scoring.combination",
    "Dataset": "data.dataset",
    "Densify": "nn.layers",
    "DynamicSparseTensor": "sparse.dynamic",
    "InputError": "errors",
    "StoreError": "errors",
    "Manifest": "data.manifest",
    "MaskCriterion": "nn.criteria",
    "RatingAutoencoder": "nn.autoencoder",
    "RowAdagrad": "nn.optimisers",
    "RowAdam": "nn.optimisers",
    "RowSGD": "nn.optimisers",
    "SDAECriterion": "nn.criteria",
    "SDAESparseCriterion": "nn.criteria",
    "SampledLinear": "nn.layers",
    "SparseCriterion": "nn.criteria",
    "SparseLinearBatch": "nn.layers",
    "SparseRows": "sparse.rows",
    "Sparsifier": "nn.layers",
    "densify": "sparse.original",
    "load_model": "checkpoints.checkpoint",
    "prepare_input": "nn.criteria",
    "sparsify": "sparse.original",
    "ssort": "sparse.original",
    "ssort_by_index": "sparse.original",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'nnsparse_stream' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"nnsparse_stream.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
