"""What a checkpoint says of itself, its `state.json`: all that is to be known before its tensors are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

from nnsparse_stream.data.features import FeaturesFile
from nnsparse_stream.data.manifest import ColumnsFile, Manifest, vocabulary_fingerprint
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.model import ModelConfig
from nnsparse_stream.nn.models import MODELS
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed
from nnsparse_stream.training.objectives import recipe_from_json
from nnsparse_stream.training.tensor_files import TensorFile

KIND = "nnsparse-stream checkpoint"
SCHEMA_VERSION = 4
STATE_FILE = "state.json"
_STEP = re.compile(r"checkpoints/step-\d{9,}")
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


class _State(TypedDict):
    """The fields of a state; docs/data-layout.md describes them."""

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


@dataclass
class CheckpointState:
    """A checkpoint without its tensors.

    Attributes:
        url: the checkpoint's directory.
        state: what state.json holds: `axis`, `row_id_type`, `column_id_type`, `vocabulary` (fingerprint), `columns`
            (the vocabulary's files, in the run's directory), `features` (that of the rows' features, likewise, or None
            where the model reads none), `data` (SHA-256 of the data set's manifest), `recipe`
            (with its objective), `seed`, `validation_metric` (by which an epoch is the best), `epoch`, `cursor`, `sums`
            (of the epoch so far), `step`, `rounds` (None of a run of one worker; of one in rounds: its `workers`,
            rounds `of_epoch`, those `done` of the epoch that goes on, the training `entries` of each worker's share,
            where each worker is `at`, and what is `told` of each round of the epoch), `best`, `history` (metrics by
            epoch), `model` (its kind and configuration), `tensors` (size and SHA-256 of the files: the model's parts,
            and the state of each worker's optimiser).
    """

    url: str
    state: dict[str, Any]

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return _config(self.state["model"])

    @property
    def model_files(self) -> list[TensorFile]:
        """What is noted of the model's parts."""
        return [TensorFile(**file) for file in self.state["tensors"]["model"]]

    @property
    def optimizer_files(self) -> list[TensorFile]:
        """What is noted of the state of each worker's optimiser; empty where none is kept."""
        return [TensorFile(**file) for file in self.state["tensors"]["optimizer"]]

    @property
    def features(self) -> FeaturesFile | None:
        """The vocabulary of the rows' features, in the run's directory; None where the model reads none."""
        held = self.state["features"]
        return None if held is None else typed(FeaturesFile, held)

    @property
    def run(self) -> str:
        """The directory of the run, which holds the vocabulary."""
        return storage.parent(storage.parent(self.url))

    def check_kind(self, manifest: Manifest, url: str) -> None:
        """Refuses a data set whose rows are of another kind than the model's, whatever their columns are.

        Raises:
            InputError: the data set has another axis, other types of ids, or it holds interactions and the model
                predicts ratings.
        """
        recipe_from_json(self.state["recipe"]).check_feedback(manifest.feedback, url)
        if manifest.axis != self.state["axis"]:
            raise InputError(
                f"{url} has rows by {manifest.axis}, but the model in {self.url} was trained on rows by "
                f"{self.state['axis']}; prepare the ratings with `axis` {self.state['axis']}"
            )
        for which in ("row_id_type", "column_id_type"):
            if getattr(manifest, which) != self.state[which]:
                raise InputError(
                    f"{url} has {which} {getattr(manifest, which)}, but the model in {self.url} {self.state[which]}: "
                    "prepare the ratings with the same `id_type`"
                )

    def check_data(self, manifest: Manifest, url: str) -> None:
        """Refuses a data set that the model cannot read.

        Raises:
            InputError: the data set is of another kind, or has another vocabulary.
        """
        self.check_kind(manifest, url)
        # The vocabularies of which this model's columns are the first so many.
        columns = {entry["fingerprint"]: entry["num_columns"] for entry in manifest.earlier_vocabularies}
        columns[vocabulary_fingerprint(manifest)] = manifest.num_columns
        known = columns.get(self.state["vocabulary"])
        if known is not None and known < manifest.num_columns:
            raise InputError(
                f"{url} has {manifest.num_columns - known} columns more than the model in {self.url} was trained on; "
                "train on it, or score raw files with `input`, which leaves out the ratings of new columns"
            )
        if known is None:
            raise InputError(
                f"{url} has another vocabulary than the data set that the model in {self.url} was trained on: its "
                "column indices mean other ids; use the data set of the training, or score raw files with `input`"
            )
        if manifest.num_columns != self.state["model"]["num_columns"]:
            raise InputError(
                f"{url} is damaged: its manifest says {manifest.num_columns} columns, and of this vocabulary there are "
                f"{self.state['model']['num_columns']}"
            )
        if self.state["features"] not in (None, features_of(manifest)):
            raise InputError(
                f"{url} has not the features of rows that the model in {self.url} was trained with: prepare the "
                "ratings with the same `row_features`, or with the `vocabulary` of the training's data set and its own"
            )

    def vocabulary_file(self) -> dict[str, Any]:
        """The vocabulary as `nnsparse_stream.data.vocabulary_files.load_vocabulary` takes one."""
        return {"url": self.run, "files": self.state["columns"], "ratings": 0}

    def read_vocabulary(self) -> Vocabulary:
        """The ids of the model's columns.

        Raises:
            InputError: a file of it is missing, or another one than when the run began.
        """
        parts = self.state["columns"]
        urls = [storage.join(self.run, part["path"]) for part in parts]
        vocabulary = Vocabulary.read(urls, checksums=[part["sha256"] for part in parts])
        if (len(vocabulary), vocabulary.id_type) != (self.state["model"]["num_columns"], self.state["column_id_type"]):
            raise InputError(f"{self.run}: the vocabulary is not that of the model in {self.url}")
        return vocabulary


def step_directory(run: str, step: int) -> str:
    """Where the checkpoint of a step lies in a run."""
    return storage.join(run, "checkpoints", f"step-{step:09d}")


def checkpoints_of(run: str) -> list[str]:
    """URLs of a run's whole checkpoints, by ascending step."""
    return [url for url, whole in _steps_of(run).items() if whole]


def remains_of(run: str, step: int) -> list[str]:
    """URLs of directories of earlier steps than one in which a kill has left a part of a checkpoint."""
    last = step_directory(run, step)
    return [url for url, whole in _steps_of(run).items() if not whole and url < last]


def _steps_of(run: str) -> dict[str, bool]:
    """URLs of the directories of a run's checkpoints, by ascending step, and whether each is whole."""
    where = storage.join(run, "checkpoints")
    names = storage.list_files(where) if storage.is_directory(where) else {}
    steps = sorted({name.partition("/")[0] for name in names if name.startswith("step-") and "/" in name})
    return {storage.join(where, step): f"{step}/{STATE_FILE}" in names for step in steps}


def write_state(url: str, state: dict[str, Any]) -> None:
    """Writes the state of a checkpoint, whose tensors are there."""
    value = {"kind": KIND, "schema_version": SCHEMA_VERSION, **state}
    storage.write_file(storage.join(url, STATE_FILE), storage.to_json({**value, "sha256": _checksum(value)}))


def read_state(url: str) -> CheckpointState:
    """Reads what a checkpoint says of itself; no tensor and no vocabulary.

    Args:
        url: a run's directory or one checkpoint's. Of a run, the checkpoint that its run.json names; the last where it
            has not ended.

    Raises:
        InputError: there is no checkpoint, it is of another schema version, or its state is damaged.
    """
    if not storage.exists(storage.join(url, STATE_FILE)):
        url = _checkpoint_of(url)
    path = storage.join(url, STATE_FILE)
    value = storage.read_json(path, "a checkpoint's state")
    noted = value.pop("sha256", None)
    if value.get("kind") != KIND:
        raise InputError(f"{url}: {STATE_FILE} is not that of a checkpoint of nnsparse-stream")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{url} has schema version {value.get('schema_version')}, this program reads {SCHEMA_VERSION}; "
            "train again, or use the version that wrote it"
        )
    state = {name: held for name, held in value.items() if name not in ("kind", "schema_version")}
    try:
        # What is not of the types that we write gives no JSON either.
        damage = _damage(typed(_State, state))
        if damage is None and _checksum(value) != noted:
            damage = "it was altered: its SHA-256 is not the one that it notes"
    except (ValueError, RecursionError) as error:
        damage = storage.one_line(error)
    if damage:
        raise InputError(f"{path} is damaged: {damage}")
    return CheckpointState(url, state)


def _checkpoint_of(run: str) -> str:
    """The checkpoint that stands for a run."""
    found = checkpoints_of(run)
    if not found:
        if storage.exists(storage.join(run, "grid.json")):
            raise InputError(f"{run} holds a grid of many runs: name one of them, {storage.join(run, 'runs', 'NAME')}")
        raise InputError(f"{run} is neither a training run's directory nor a checkpoint's: there is no {STATE_FILE}")
    ended = storage.join(run, "run.json")
    if not storage.exists(ended):
        return found[-1]
    named = storage.read_json(ended, "a run").get("checkpoint")
    if not isinstance(named, str) or not _STEP.fullmatch(named) or storage.join(run, named) not in found:
        raise InputError(f"{ended} is damaged: it names the checkpoint {named!r}, which is not there")
    return storage.join(run, named)


def _checksum(state: dict[str, Any]) -> str:
    return storage.sha256(storage.to_json(state))


def _damage(state: _State) -> str | None:
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
    columns = _config(state["model"]).num_columns
    if sum(part.rows for part in state["columns"]) != columns:
        return "the vocabulary has not as many ids as the model has columns"
    if not 1 <= len(tensors["model"]) <= max(columns, 1):
        return f"the model is in {len(tensors['model'])} parts"
    return None


def _damage_of_rounds(state: _State, rounds: _Rounds) -> str | None:
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


def _config(model: dict[str, Any]) -> ModelConfig:
    """The configuration of a model that a state describes.

    Raises:
        ValueError: there is no such kind of model, or a field is not of its type.
    """
    kind = model.get("kind")
    if kind not in MODELS:
        raise ValueError(f"model.kind is {kind!r}, not one of {', '.join(MODELS)}")
    return typed(MODELS[kind].config_type, {name: held for name, held in model.items() if name != "kind"}, "model")


def columns_of(manifest: Manifest) -> list[dict[str, Any]]:
    """A data set's vocabulary as `CheckpointState.state` refers to it: a run holds a copy, under the same names."""
    return [asdict(part) for part in manifest.columns]


def tensors_of(model: Sequence[TensorFile], optimizer: Sequence[TensorFile]) -> dict[str, Any]:
    """The files of a checkpoint as `CheckpointState.state` refers to them: the model's parts, and of each optimiser."""
    return {"model": [asdict(file) for file in model], "optimizer": [asdict(file) for file in optimizer]}


def features_of(manifest: Manifest) -> dict[str, Any] | None:
    """The vocabulary of a data set's features as `CheckpointState.state` refers to it."""
    held = manifest.features
    return None if held is None else {**asdict(held), "fields": [asdict(field) for field in held.fields]}
