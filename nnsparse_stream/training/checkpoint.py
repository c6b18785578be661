"""Checkpoints: a model with its vocabulary and state, as safetensors, Parquet and JSON in one directory on any URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from nnsparse_stream.data.dataset import Manifest, vocabulary_fingerprint
from nnsparse_stream.errors import InputError
from nnsparse_stream.ids.vocabulary import Vocabulary
from nnsparse_stream.nn.autoencoder import ModelConfig, RatingAutoencoder
from nnsparse_stream.storage import files as storage

KIND = "nnsparse-stream checkpoint"
SCHEMA_VERSION = 1
_STATE = "state.json"
_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_VOCABULARY = "columns.parquet"
#: All files of a checkpoint.
FILES = (_STATE, _WEIGHTS, _OPTIMIZER, _VOCABULARY)


@dataclass
class Checkpoint:
    """A model and what is needed to use it or to train on.

    Attributes:
        model: the model, on the CPU.
        vocabulary: ids of the model's columns.
        state: what state.json holds: `axis`, `row_id_type`, `column_id_type`, `vocabulary` (fingerprint), `recipe`,
            `seed`, `epoch`, `step`, `history` (metrics by epoch).
        url: where it was read from.
    """

    model: RatingAutoencoder
    vocabulary: Vocabulary
    state: dict[str, Any]
    url: str

    def check_data(self, manifest: Manifest, url: str) -> None:
        """Refuses a data set that the model cannot read.

        Raises:
            InputError: the data set has another axis, or another vocabulary.
        """
        if manifest.axis != self.state["axis"]:
            raise InputError(
                f"{url} has rows by {manifest.axis}, but the model in {self.url} was trained on rows by "
                f"{self.state['axis']}; prepare the ratings with `axis` {self.state['axis']}"
            )
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

    def vocabulary_file(self) -> dict[str, Any]:
        """The vocabulary as `transforms.SparsifyRatings` takes one: what `BuildVocabulary` would have returned."""
        file = {"path": _VOCABULARY, "sha256": self.state["vocabulary_file"], "rows": len(self.vocabulary)}
        return {"url": self.url, "files": [file], "ratings": 0}


def step_directory(run: str, step: int) -> str:
    """Where the checkpoint of a step lies in a run."""
    return storage.join(run, "checkpoints", f"step-{step:09d}")


def save_checkpoint(url: str, checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> None:
    """Writes a checkpoint; state.json is written last, and a directory without it is not a checkpoint."""
    held = optimizer.state_dict()["state"]
    buffers = {
        f"{parameter}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, values in held.items()
        for name, value in values.items()
    }
    storage.write_file(storage.join(url, _OPTIMIZER), safetensors.torch.save(buffers))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    storage.write_file(storage.join(url, _WEIGHTS), safetensors.torch.save(tensors))
    vocabulary = checkpoint.vocabulary.to_parquet()
    storage.write_file(storage.join(url, _VOCABULARY), vocabulary)
    state = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "model": checkpoint.model.config.to_json(),
        **checkpoint.state,
        "vocabulary_file": storage.sha256(vocabulary),
    }
    storage.write_file(storage.join(url, _STATE), storage.to_json(state))


def load_optimizer(url: str, optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimiser the state that a checkpoint holds.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = storage.join(url, _OPTIMIZER)
    try:
        buffers = safetensors.torch.load(storage.read_file(path))
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {storage.one_line(error)}") from error
    # Not by load_state_dict, which casts the state to the parameter's dtype: that of a bfloat16 one is wider.
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in buffers.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        optimizer.state[parameter][name] = value.to(parameter.device)


def checkpoints_of(run: str) -> list[str]:
    """URLs of a run's whole checkpoints, by ascending step."""
    where = storage.join(run, "checkpoints")
    names = storage.list_files(where) if storage.is_directory(where) else {}
    steps = sorted(name.removesuffix("/" + _STATE) for name in names if name.endswith("/" + _STATE))
    return [storage.join(where, step) for step in steps if step.startswith("step-")]


def remove_checkpoint(url: str) -> None:
    """Removes a checkpoint, state.json first: what remains where that is cut off is not taken for a checkpoint."""
    for name in FILES:
        storage.remove_file(storage.join(url, name))
    storage.remove_empty_directory(url)


def load_model(url: str) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        url: a run's directory or one checkpoint's. Of a run, the checkpoint that its run.json names; the last where it
            has not ended.

    Raises:
        InputError: there is no checkpoint, it is of another schema version, or a file of it is damaged.
    """
    if not storage.exists(storage.join(url, _STATE)):
        found = checkpoints_of(url)
        if not found:
            raise InputError(f"{url} is neither a training run's directory nor a checkpoint's: there is no {_STATE}")
        ended = storage.join(url, "run.json")
        url = storage.join(url, storage.read_json(ended, "a run")["checkpoint"]) if storage.exists(ended) else found[-1]
    state = storage.read_json(storage.join(url, _STATE), "a checkpoint's state")
    if state.get("kind") != KIND:
        raise InputError(f"{url}: {_STATE} is not that of a checkpoint of nnsparse-stream")
    if state.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{url} has schema version {state.get('schema_version')}, this program reads {SCHEMA_VERSION}; "
            "train again, or use the version that wrote it"
        )
    weights, vocabulary = storage.join(url, _WEIGHTS), storage.join(url, _VOCABULARY)
    try:
        config, checksum = ModelConfig.from_json(state["model"]), state["vocabulary_file"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{storage.join(url, _STATE)} is damaged: {storage.one_line(error)}") from error
    with torch.random.fork_rng(devices=[]):
        model = RatingAutoencoder(config)
    try:
        model.load_state_dict(safetensors.torch.load(storage.read_file(weights)))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights} is damaged or of another model: {storage.one_line(error)}") from error
    model.eval()
    return Checkpoint(model, Vocabulary.read([vocabulary], checksums=[checksum]), state, url)
