"""Steps of training on small minibatches, of recipes that together have every field which a step reads."""

from __future__ import annotations

import torch
from torch import Tensor

from nnsparse_stream.checkpoints.checkpoint import Checkpoint
from nnsparse_stream.data.features import FeaturesFile
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.objectives.objectives import objective_of
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.recipe import Recipe, StepRecipe
from nnsparse_stream.sparse.rows import SparseRows
from nnsparse_stream.training.steps import Trainer

_COLUMNS, _ROWS, _FEATURES = 60, 12, 9

#: Recipes by name, each with the layer that is trained alone.
CASES: dict[str, tuple[Recipe, int | None]] = {
    "cfn": (recipe("cfn", hidden=(6,), momentum=0.5), None),
    "outer layer": (recipe("cfn-stacked", hidden=(6, 4)), 1),
    "inner layer": (recipe("cfn-stacked", hidden=(6, 4)), 2),
    "all layers": (recipe("cfn-stacked", hidden=(6, 4), hide_ratio=0.0, clip_norm=0.1, inner_precision="tf32"), None),
    "best": (recipe("best", hidden=(6,), optimizer="row_adam", clip_norm=0.1), None),
    "best in bfloat16": (recipe("best", hidden=(6,), storage="bfloat16", clip_norm=0.1), None),
    "presence": (recipe("best-small", hidden=(6,), optimizer="adam", second_moment=0.9, decay_rows=64), None),
    "deep": (recipe("deep", hidden=(6, 4), inner_precision="bfloat16"), None),
    "refeed": (recipe("best", hidden=(6,), optimizer="adagrad", refeed_columns=7, presence=True), None),
    "linear squared": (recipe("ranking-dense", units=6, sampled_columns=9, clip_norm=0.1), None),
    "linear logistic": (
        recipe("ranking-dense", units=6, sampled_columns=40, loss="logistic", hide_ratio=0.3, alpha=1.5, beta=0.5,
               popularity_power=0.25, optimizer="adagrad"),
        None,
    ),
    "linear multinomial": (
        recipe("ranking-dense", units=6, sampled_columns=9, loss="multinomial", optimizer="row_adam",
               second_moment=0.9),
        None,
    ),
    "tied squared": (recipe("ranking-dense", units=6, sampled_columns=9, tied=True, optimizer="sgd"), None),
    "cosine squared": (recipe("ranking-sparse", units=6, sampled_columns=9, loss="squared"), None),
    "cosine logistic": (recipe("ranking-sparse", units=6, sampled_columns=9, loss="logistic", clip_norm=0.1,
               inner_precision="tf32"), None),
    "cosine multinomial": (
        recipe("ranking-sparse", units=6, sampled_columns=9, hide_ratio=0.3, weight_decay=1.0,
               inner_precision="bfloat16"),
        None,
    ),
}  # fmt: skip

_MANIFEST = Manifest(
    "user", "int64", "int64", _COLUMNS, _ROWS, 0, {}, {}, {"mean": 3.0, "min": 1.0, "max": 5.0, "std": 1.0}, {},
    "error", (), (), features=FeaturesFile("", _FEATURES, 0, "", ()),
)  # fmt: skip


def minibatch(seed: int) -> SparseRows:
    """Rows of one entry and more, of which all have column 2, with features, of one row none."""
    random = torch.Generator().manual_seed(seed)

    def block(num_columns: int, always: int, least: int) -> SparseRows:
        held = torch.rand(_ROWS, num_columns, generator=random) < torch.linspace(0, 0.5, _ROWS)[:, None]
        held[least:, always] = True
        return SparseRows.from_dense(held.float())

    rows, features = block(_COLUMNS, 2, 0), block(_FEATURES, 1, 1)
    values = torch.randint(1, 6, (rows.num_entries,), generator=random).float()
    return SparseRows(rows.offsets, rows.columns, values, _COLUMNS, features)


def trainer_of(case: str, device: torch.device) -> Trainer:
    """What does the steps of a case, from initial weights."""
    plan, layer = CASES[case]
    assert isinstance(plan, StepRecipe)
    model = objective_of(plan).make_model(plan, _MANIFEST, torch.Generator().manual_seed(1))
    model.column_counts += 3
    model.column_counts[5] = 0
    return Trainer(Checkpoint("", {"step": 0}, model), plan, 7, device, layer)


def tensors_of(trainer: Trainer) -> list[Tensor]:
    """The weights, and the optimiser's state."""
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [*trainer.model.state_dict().values(), *states]
