"""The fields of a checkpoint's `state.json`: their types, and which values cannot be."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from nnsparse_stream.checkpoints.tensor_files import TensorFile
from nnsparse_stream.data.features import FeaturesFile
from nnsparse_stream.data.manifest import ColumnsFile
from nnsparse_stream.nn.model import ModelConfig
from nnsparse_stream.nn.models import MODELS
from nnsparse_stream.objectives.objectives import recipe_from_json
from nnsparse_stream.storage.json_types import typed

_IdType = Literal["int64", "string"]


class _Sums(TypedDict):
    entries: int
    rows: int
    batches: int
    terms: dict[str, float]
    learning_rate: float
    seconds: float
    waited: float


class _Best(TypedDict):
    epoch: int
    step: int
    metric: str
    value: float


class _Round(TypedDict):
    round: int
    epoch: int
    device: str
    time: float
    train: dict[str, float]
    ratings: int
    seconds: float
    ratings_per_second: int
    slowest_worker: int
    slowest_seconds: float
    median_seconds: float
    merging_seconds: float
    change_bytes: int
    learning_rate: float
    peak_memory_bytes: int


class _EpochMetrics(TypedDict):
    epoch: int
    step: int
    time: float
    layer: int | None
    learning_rate: float
    train: dict[str, float]
    validation: dict[str, float] | None
    ratings: int
    seconds: float
    ratings_per_second: int
    batch_fill: float
    waiting_for_data: float
    peak_memory_bytes: int


class _Metrics(_EpochMetrics, total=False):
    rounds: list[_Round]


class _Tensors(TypedDict):
    model: list[TensorFile]
    optimizer: list[TensorFile]


class _At(TypedDict):
    cursor: tuple[int, int]
    step: int
    entries: int


class _Rounds(TypedDict):
    workers: int
    of_epoch: int
    done: int
    entries: list[int]
    at: list[_At]
    told: list[_Round]


class _Init(TypedDict):
    url: str
    step: int
    fingerprint: str
    columns: int
    entries: int
    optimizer: bool


class _Always(TypedDict):
    axis: Literal["user", "item"]
    row_id_type: _IdType
    column_id_type: _IdType
    vocabulary: str
    columns: list[ColumnsFile]
    features: FeaturesFile | None
    data: str
    recipe: dict[str, Any]
    seed: int
    validation_metric: str
    epoch: int
    cursor: tuple[int, int]
    sums: _Sums
    step: int
    rounds: _Rounds | None
    best: _Best | None
    history: list[_Metrics]
    model: dict[str, Any]
    tensors: _Tensors


class StateFields(_Always, total=False):
    """The fields of a state; docs/data-layout.md describes them."""

    init: _Init


def damage_of(state: StateFields) -> str | None:
    """What is wrong with values of the right types, or None."""
    if min(state["seed"], state["epoch"], state["step"], *state["cursor"]) < 0:
        return "seed, epoch, step or cursor is negative"
    sums, best = state["sums"], state["best"]
    counts = (sums["batches"], sums["rows"], sums["entries"])
    if min(*counts, sums["seconds"], sums["waited"]) < 0:
        return "a sum is negative"
    rounds, tensors = state["rounds"], state["tensors"]
    if rounds is None and len({bool(count) for count in (*counts, sum(state["cursor"]))}) > 1:
        return "cursor and sums do not agree"
    if rounds is not None and (damage := _damage_of_rounds(state, rounds)):
        return damage
    if len(tensors["optimizer"]) not in (0, rounds["workers"] if rounds else 1):
        return f"there are {len(tensors['optimizer'])} files of optimisers"
    if best and not (0 < best["epoch"] <= state["epoch"] and 0 < best["step"] <= state["step"]):
        return "best lies ahead"
    if len(state["history"]) != state["epoch"]:
        return f"there are metrics of {len(state['history'])} epochs, and it is after epoch {state['epoch']}"
    recipe_from_json(state["recipe"])
    columns = config_of(state["model"]).num_columns
    if (began := state.get("init")) and not (
        0 <= began["columns"] <= columns and min(began["step"], began["entries"]) >= 0
    ):
        return "init.columns, init.entries or init.step is out of range"
    if sum(part.rows for part in state["columns"]) != columns:
        return "the vocabulary has not as many ids as the model has columns"
    if not 1 <= len(tensors["model"]) <= max(columns, 1):
        return f"the model is in {len(tensors['model'])} parts"
    return None


def _damage_of_rounds(state: StateFields, rounds: _Rounds) -> str | None:
    """What is wrong with where a run in rounds is, or None."""
    if rounds["workers"] < 1 or rounds["of_epoch"] < 1 or not 0 <= rounds["done"] <= rounds["of_epoch"]:
        return "rounds.workers, rounds.of_epoch or rounds.done is out of range"
    if not len(rounds["entries"]) == len(rounds["at"]) == rounds["workers"]:
        return "rounds.entries or rounds.at has not one element a worker"
    if len(rounds["told"]) != rounds["done"]:
        return "rounds.told has not one element a round of the epoch"
    for at, entries in zip(rounds["at"], rounds["entries"], strict=True):
        if min(at["step"], at["entries"], *at["cursor"]) < 0 or at["entries"] > entries:
            return "a worker of rounds.at is out of range"
    sums = state["sums"]
    begun = {bool(sums[name]) for name in ("batches", "rows", "entries")}
    if any(state["cursor"]) or len(begun) > 1 or (begun == {True} and not rounds["done"]):
        return "cursor, sums and rounds do not agree"
    return None


def config_of(model: dict[str, Any]) -> ModelConfig:
    """The configuration of a model that a state describes.

    Raises:
        ValueError: there is no such kind of model, or a field is not of its type.
    """
    kind = model.get("kind")
    if kind not in MODELS:
        raise ValueError(f"model.kind is {kind!r}, not one of {', '.join(MODELS)}")
    return typed(MODELS[kind].config_type, {name: held for name, held in model.items() if name != "kind"}, "model")
