"""What a checkpoint says of itself, its `state.json`: all that is to be known before its tensors are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nnsparse_stream.checkpoints.state_fields import StateFields, config_of, damage_of
from nnsparse_stream.checkpoints.tensor_files import TensorFile
from nnsparse_stream.data.features import FeaturesFile
from nnsparse_stream.data.manifest import Manifest, vocabulary_fingerprint
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.model import ModelConfig
from nnsparse_stream.objectives.objectives import recipe_from_json
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed

KIND = "nnsparse-stream checkpoint"
SCHEMA_VERSION = 5
STATE_FILE = "state.json"
_STEP = re.compile(r"checkpoints/step-\d{9,}")


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
            and the state of each worker's optimiser), and `init` where the run began from an earlier model: what
            `nnsparse_stream.training.warm_start.noted` says of it.
    """

    url: str
    state: dict[str, Any]

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return config_of(self.state["model"])

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
    def fingerprint(self) -> str:
        """Identifies the model and the state of its optimiser: a checksum of the checksums of their files."""
        files = [*self.model_files, *self.optimizer_files]
        return storage.sha256("".join(file.sha256 for file in files).encode())

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

    def check_data(self, manifest: Manifest, url: str, more_columns: bool = False) -> None:
        """Refuses a data set that the model cannot read.

        Args:
            manifest: of the data set.
            url: where it lies.
            more_columns: whether it may have columns more, behind those of the model.

        Raises:
            InputError: the data set is of another kind, or has another vocabulary.
        """
        self.check_kind(manifest, url)
        known = self.known_columns(manifest, url)
        if known is not None and known < manifest.num_columns and not more_columns:
            raise InputError(
                f"{url} has {manifest.num_columns - known} columns more than the model in {self.url} was trained on; "
                "train on it (with `init`, from this model), or score raw files with `input`, which leaves out the "
                "ratings of new columns"
            )
        if known is None:
            raise InputError(
                f"{url} has another vocabulary than the data set that the model in {self.url} was trained on: its "
                "column indices mean other ids; use the data set of the training, or score raw files with `input`"
            )
        if self.state["features"] not in (None, features_of(manifest)):
            raise InputError(
                f"{url} has not the features of rows that the model in {self.url} was trained with: prepare the "
                "ratings with the same `row_features`, or with the `vocabulary` of the training's data set and its own"
            )

    def known_columns(self, manifest: Manifest, url: str) -> int | None:
        """How many columns of a data set, its first, are those of the model; None where its columns are others.

        Raises:
            InputError: the data set says another number than the model has.
        """
        columns = {entry["fingerprint"]: entry["num_columns"] for entry in manifest.earlier_vocabularies}
        columns[vocabulary_fingerprint(manifest)] = manifest.num_columns
        known: int | None = columns.get(self.state["vocabulary"])
        if known not in (None, self.state["model"]["num_columns"]):
            raise InputError(
                f"{url} is damaged: its manifest says {known} columns, and of this vocabulary there are "
                f"{self.state['model']['num_columns']}"
            )
        return known

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
        damage = damage_of(typed(StateFields, state))
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
