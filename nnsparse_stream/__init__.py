"""Sparse autoencoders for rating prediction: sparse rows, layers, criteria, models, data sets, checkpoints.

Names resolve on first use, so that `import nnsparse_stream` costs nothing and preparation never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsparse_stream.batchifier import Batchifier as Batchifier
    from nnsparse_stream.checkpoint import load_model as load_model
    from nnsparse_stream.criteria import MaskCriterion as MaskCriterion
    from nnsparse_stream.criteria import SDAECriterion as SDAECriterion
    from nnsparse_stream.criteria import SDAESparseCriterion as SDAESparseCriterion
    from nnsparse_stream.criteria import SparseCriterion as SparseCriterion
    from nnsparse_stream.criteria import prepare_input as prepare_input
    from nnsparse_stream.dataset import Dataset as Dataset
    from nnsparse_stream.dataset import Manifest as Manifest
    from nnsparse_stream.dynamic import DynamicSparseTensor as DynamicSparseTensor
    from nnsparse_stream.errors import InputError as InputError
    from nnsparse_stream.layers import Densify as Densify
    from nnsparse_stream.layers import SampledLinear as SampledLinear
    from nnsparse_stream.layers import SparseLinearBatch as SparseLinearBatch
    from nnsparse_stream.layers import Sparsifier as Sparsifier
    from nnsparse_stream.model import RatingAutoencoder as RatingAutoencoder
    from nnsparse_stream.optim import RowAdagrad as RowAdagrad
    from nnsparse_stream.optim import RowAdam as RowAdam
    from nnsparse_stream.optim import RowSGD as RowSGD
    from nnsparse_stream.rows import SparseRows as SparseRows
    from nnsparse_stream.tools import densify as densify
    from nnsparse_stream.tools import sparsify as sparsify
    from nnsparse_stream.tools import ssort as ssort
    from nnsparse_stream.tools import ssort_by_index as ssort_by_index

_MODULE_OF = {
    "Batchifier": "batchifier",
    "Dataset": "dataset",
    "Densify": "layers",
    "DynamicSparseTensor": "dynamic",
    "InputError": "errors",
    "Manifest": "dataset",
    "MaskCriterion": "criteria",
    "RatingAutoencoder": "model",
    "RowAdagrad": "optim",
    "RowAdam": "optim",
    "RowSGD": "optim",
    "SDAECriterion": "criteria",
    "SDAESparseCriterion": "criteria",
    "SampledLinear": "layers",
    "SparseCriterion": "criteria",
    "SparseLinearBatch": "layers",
    "SparseRows": "rows",
    "Sparsifier": "layers",
    "densify": "tools",
    "load_model": "checkpoint",
    "prepare_input": "criteria",
    "sparsify": "tools",
    "ssort": "tools",
    "ssort_by_index": "tools",
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
