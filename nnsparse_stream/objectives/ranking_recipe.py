"""The recipe of the objective `ranking`: what a row has is ranked above columns sampled from all the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nnsparse_stream.objectives.recipe import PRECISIONS, StepRecipe, recipe_field


@dataclass(frozen=True)
class RankingRecipe(StepRecipe):
    """How a model of lists is made and trained. Each field's metadata says what it means."""

    objective = "ranking"

    units: int = recipe_field(128, "units of the code")
    tied: bool = recipe_field(False, "whether one matrix encodes and decodes")
    temperature: float = recipe_field(
        0.0, "scores are this times the cosine of code and decoder row, which needs `tied`; 0: their product"
    )
    code_power: float = recipe_field(0.0, "without a temperature, a code is divided by entries ^ this")
    popularity_power: float = recipe_field(
        0.0, "an entry counts in its row's code by its column's training entries ^ minus this"
    )
    initial_std: float = recipe_field(0.02, "of normal initial weights")
    loss: str = recipe_field("squared", "squared, logistic, or multinomial (sampled softmax)")
    sampled_columns: int = recipe_field(1000, "columns, drawn for each minibatch, that stand for what a row lacks")
    inner_precision: str = recipe_field(
        "float32",
        "of codes times sampled columns: float32, tf32 or bfloat16 (faster on GPUs; on a CPU tf32 is float32)",
    )
    row_power: float = recipe_field(0.0, "a row's loss is divided by entries ^ this")
    loss_average: str = recipe_field("rows", "what a minibatch's sum of losses is divided by: its rows or its entries")
    alpha: float = recipe_field(1.0, "weight of the loss at hidden entries")
    beta: float = recipe_field(1.0, "weight of the loss at the other observed entries")
    hide_ratio: float = recipe_field(0.0, "fraction of a row's entries that are hidden from the input")
    weight_decay: float = recipe_field(
        0.0,
        "L2 of encoder and decoder, divided by the data set's rows: as much for seldom columns as for frequent ones",
    )

    least: ClassVar[Mapping[str, float]] = {
        **StepRecipe.least,
        **dict.fromkeys(("units", "sampled_columns"), 1),
        **dict.fromkeys(("temperature", "code_power", "popularity_power"), 0),
        **dict.fromkeys(("initial_std", "row_power", "weight_decay"), 0),
    }
    shares: ClassVar[tuple[str, ...]] = (*StepRecipe.shares, "hide_ratio")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **StepRecipe.choices,
        "inner_precision": PRECISIONS,
        "loss": ("squared", "logistic", "multinomial"),
        "loss_average": ("rows", "entries"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature and not self.tied:
            raise ValueError(f"temperature is {self.temperature} and tied is false: cosines need tied weights")
