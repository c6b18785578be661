"""Runs `prepare` in this process, and reads back what it wrote."""

from __future__ import annotations

import json

from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.pipelines import cli
from nnsparse_stream.storage import files as storage


def prepare(*flags: object) -> int:
    return cli.main(["prepare", *map(str, flags)])


def files_of(url: str) -> dict[str, bytes]:
    """Every file of a directory, by its path in it; manifests without how the rating files were read."""
    fs, path = storage.filesystem(url)
    files = {name[len(path) :].lstrip("/"): fs.cat_file(name) for name in fs.find(path)} if fs.exists(path) else {}
    for name in [name for name in files if name.endswith("manifest.json")]:
        manifest = json.loads(files[name])
        manifest.pop("input", None)
        files[name] = storage.to_json(manifest)
    return files


def ratings_of(url: str) -> list[tuple]:
    """Every entry of a data set as (row, column, value, fold)."""
    dataset = Dataset(url)
    ids = dataset.vocabulary().ids.to_pylist()
    return [
        (row["row"], ids[column], value, fold)
        for batch in dataset.batches()
        for row in batch.to_pylist()
        for column, value, fold in zip(row["columns"], row["values"], row["fold"], strict=True)
    ]
