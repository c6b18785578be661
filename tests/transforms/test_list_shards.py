"""Manifests are read once a run, however many shards there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from samples import Trained, command

from nnsparse_stream.pipelines import cli

NUM_SHARDS = 16


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each local file was opened."""
    counts: Counter[str] = Counter()
    really_open = LocalFileSystem._open

    def counting(self: LocalFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        counts[path] += 1
        return really_open(self, path, *args, **kwargs)

    monkeypatch.setattr(LocalFileSystem, "_open", counting)
    return counts


def test_manifests_are_not_read_for_each_shard(
    trained: Trained, item_side: Trained, tmp_path: Path, opened: Counter[str]
) -> None:
    many = str(tmp_path / "many")
    folds = ["--axis", "user", "--folds", "80,10,10"]
    command("prepare", "--input", trained.log, "--output", many, *folds, "--num_shards", str(NUM_SHARDS))
    (tmp_path / "pairs.csv").write_text("user,item\n" + "".join(f"user-{n},drama-000\n" for n in range(100)))

    def reads(data: str, *argv: str) -> int:
        opened.clear()
        assert cli.main([*argv, "--data", data]) == 0
        return sum(count for path, count in opened.items() if path.endswith("/manifest.json"))

    pairs, output = ["--pairs", str(tmp_path / "pairs.csv")], ["--output", str(tmp_path / "scores"), "--overwrite"]
    alone, blend = ["--model", trained.run], ["--model", f"{trained.run},{item_side.run}"]
    for argv, other in (
        (["evaluate", *alone], ""),
        (["evaluate", *blend], item_side.data),
        (["score", *alone, *output], ""),
        (["score", *alone, *output, *pairs], ""),
        (["score", *blend, *output], item_side.data),
        (["score", *blend, *output, *pairs], item_side.data),
    ):
        assert reads(",".join(filter(None, (many, other))), *argv) <= 12 < NUM_SHARDS
