"""Models that predict together: several that are named, or those of a directory that `blend` wrote.

docs/data-layout.md describes the directory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np

from nnsparse_stream.checkpoints.state import CheckpointState, read_state
from nnsparse_stream.data.manifest import Manifest
from nnsparse_stream.errors import InputError
from nnsparse_stream.scoring.combination import Combination, PredictionMoments
from nnsparse_stream.storage import files as storage
from nnsparse_stream.storage.json_types import typed

KIND = "nnsparse-stream blend"
SCHEMA_VERSION = 1
#: Written last.
NAME = "blend.json"
_CHECKPOINT = re.compile(r"members/\d+/checkpoints/step-\d{9,}")


@dataclass(frozen=True)
class Member:
    """A model of a blend: the path of its checkpoint in the blend, its axis, and its data set's URL."""

    checkpoint: str
    axis: Literal["user", "item"]
    data: str


@dataclass(frozen=True)
class Fit:
    """What a blend was fitted on: how many ratings; RMSE there of the blend, but for its bounds, and of each model."""

    ratings: int
    rmse: float
    members: tuple[float, ...]

    @classmethod
    def of(cls, moments: PredictionMoments, combination: Combination) -> Fit:
        """The figures of a combination of the models that the moments are of."""
        alone = [Combination(tuple(weights)) for weights in np.eye(moments.models).tolist()]
        return cls(moments.count, moments.rmse(combination), tuple(map(moments.rmse, alone)))


@dataclass(frozen=True)
class Blend:
    """What blend.json holds."""

    members: tuple[Member, ...]
    combination: Combination
    fit: Fit

    def to_json(self) -> bytes:
        """The bytes of blend.json: equal blends give equal bytes."""
        return storage.to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, url: str) -> Blend:
        """Reads the blend in a directory.

        Raises:
            InputError: there is none, it is of another schema version, or it is damaged.
        """
        if not is_blend(url):
            raise InputError(f"{url} is no blend: it has no {NAME}")
        path = storage.join(url, NAME)
        value = storage.read_json(path, "a blend")
        kind, version = value.pop("kind", None), value.pop("schema_version", None)
        if kind != KIND:
            raise InputError(f"{path} is not that of a blend of nnsparse-stream")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{url} has schema version {version}, this program reads {SCHEMA_VERSION}; blend again, or use the "
                "version that wrote it"
            )
        try:
            blend = typed(cls, value)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged: {storage.one_line(error)}") from error
        counts = {len(blend.members), len(blend.combination.weights), len(blend.fit.members)}
        if len(counts) > 1 or not all(_CHECKPOINT.fullmatch(member.checkpoint) for member in blend.members):
            raise InputError(f"{path} is damaged: its members, weights and figures do not go together")
        return blend


def is_blend(url: str) -> bool:
    """Whether there is a blend in a directory."""
    return storage.exists(storage.join(url, NAME))


class NamedModels(NamedTuple):
    """The models that are named, one or several: their checkpoints, data sets (none where none is known), and weights.

    The rows of what they predict together are those of the first.
    """

    checkpoints: list[CheckpointState]
    data: list[str]
    combination: Combination


def named_models(
    models: Sequence[str],
    data: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    more_columns: bool = False,
) -> NamedModels:
    """Reads what the models that are named say of themselves, and finds the data set of each.

    Args:
        models: directories of runs or checkpoints; or that of one blend.
        data: data sets, one a model in the same order; or fewer, of which each model takes the one of its axis. Where
            None: those that a blend was fitted on, or none.
        weights: one a model; equal ones where None.
        more_columns: whether the data set of one model may have columns more, behind those of the model.

    Raises:
        InputError: something is not there, or does not fit.
    """
    if len(models) > 1 and any(map(is_blend, models)):
        raise InputError("a blend is named alone in `model`, not with other models: name the models that it is made of")
    if len(models) == 1 and is_blend(models[0]):
        if weights is not None:
            raise InputError(f"{models[0]} is a blend, which has its own `weights`")
        blend = Blend.read(models[0])
        members = [read_state(storage.join(models[0], member.checkpoint)) for member in blend.members]
        fitted_on = [member.data for member in blend.members]
        gone = next(
            (url for url in fitted_on if not data and not storage.exists(storage.join(url, "manifest.json"))), None
        )
        if gone is not None:
            raise InputError(f"{models[0]} was made with the data set {gone}, which is not there; name its `data`")
        return NamedModels(members, _data_sets(members, data or fitted_on), blend.combination)
    if weights is not None and len(weights) != len(models):
        raise InputError(
            f"`model` names {len(models)} models and `weights` {len(weights)}: each model needs its weight"
        )
    states = [read_state(url) for url in models]
    found = _data_sets(states, data, more_columns and len(states) == 1) if data else []
    return NamedModels(states, found, Combination.mean(weights or [1.0] * len(states)))


def _data_sets(models: Sequence[CheckpointState], data: Sequence[str], more_columns: bool = False) -> list[str]:
    """The data set of each model, each of which it can read."""
    manifests = {url: Manifest.read(url) for url in data}
    if len(data) != len(models):
        axes = [manifests[url].axis for url in data]
        wanted = [model.state["axis"] for model in models]
        if sorted(axes) != sorted(set(wanted)):
            raise InputError(
                f"`model` names {len(models)} models and `data` {len(data)} data sets: each model needs its data set, "
                "in the same order, or all models of an axis share one"
            )
        data = [data[axes.index(axis)] for axis in wanted]
    for model, url in zip(models, data, strict=True):
        model.check_data(manifests[url], url, more_columns)
    return list(data)
