"""A program that damages a run and its data set, many times, and evaluates, scores and resumes.

There are two runs, one of one worker, and one in rounds of two workers with its model in parts.

It ends with 0 where each time an InputError or the right result came of it. What ends the process shows in its exit
code, and the last line that it printed says at which case.

    python mutate_checkpoints.py LOG_OF_RATINGS SCRATCH_DIRECTORY CASES
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from by_rounds import train_in_rounds

from nnsparse_stream.checkpoints import parts
from nnsparse_stream.checkpoints.checkpoint import load_model
from nnsparse_stream.checkpoints.state import checkpoints_of, read_state
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.evaluation.metrics import parse_metrics
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.rounds.round_worker import HELD
from nnsparse_stream.scoring.tables import top_k_tables
from nnsparse_stream.storage import files as storage
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.training.start import train

VALUES = (
    None,
    True,
    -1,
    0,
    1,
    3,
    0.5,
    1e40,
    10**30,
    10**18,
    -(10**20),
    "",
    "x",
    "item",
    "int64",
    [],
    [1],
    [-1, 0],
    {},
    {"a": 1},
)
SMALL = recipe("best-small", hidden=(4,), batch_rows=64, epochs=2)


# Of the run in rounds.
ROUNDS = {"workers": 2, "rounds": 2}


def request(where: Path, **fields: Any) -> TrainingRequest:
    return TrainingRequest(str(where / "data"), str(where / "run"), SMALL, threads=1, **fields)


def evaluate(where: Path) -> Any:
    dataset = Dataset(str(where / "data"))
    read_state(str(where / "run")).check_data(dataset.manifest, dataset.url)
    model = load_model(str(where / "run")).model
    metrics = parse_metrics(["rmse", "ndcg@5"])
    parts = (judge_batch(model, batch, 2, metrics) for batch in dataset.batches())
    return sum(parts, MetricSums.of(metrics, dataset.manifest.num_columns)).values()["rmse"]


def score(where: Path) -> Any:
    dataset, checkpoint = Dataset(str(where / "data")), load_model(str(where / "run"))
    checkpoint.check_data(dataset.manifest, dataset.url)
    return [table.to_pydict() for table in top_k_tables(checkpoint, dataset.shard_batches(0), 2, (0,))]


def resume(where: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        train(request(where, resume=True))
    return weights(where)


def resume_rounds(where: Path) -> Any:
    HELD.forget(str(where / "run"))
    train_in_rounds(request(where, resume=True, **ROUNDS), job="two")
    return weights(where)


def weights(where: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(checkpoints_of(str(where / "run"))[-1]).glob("model-*"))]


def replaced(generator: random.Random, value: Any) -> Any:
    """A JSON value with one value in it changed, or one key lost."""
    holder = {"": value}
    key: Any = ""
    while isinstance(holder[key], (dict, list)) and holder[key] and (key == "" or generator.random() < 0.9):
        holder = holder[key]
        key = generator.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if generator.random() < 0.2:
        del holder[key]
    else:
        holder[key] = generator.choice(VALUES)
    return value


def other_tensors(generator: random.Random, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of which one has another shape, dtype or name, or is missing."""
    name = generator.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = generator.randrange(6)
    if kind == 0 and tensor.dim():
        tensors[name] = tensor[: len(tensor) // 2].clone()
    elif kind == 1 and tensor.dim():
        tensors[name] = torch.cat([tensor, tensor])
    elif kind == 2:
        tensors[name] = tensor.double() if tensor.dtype == torch.float32 else tensor.float()
    elif kind == 3:
        tensors[name] = tensor.t().contiguous() if tensor.dim() == 2 else tensor[None].clone()
    elif kind == 4:
        tensors[generator.choice(["", "0", "0.", "99.first", "-1.first", "0.first.x", name + "x"])] = tensor
    return tensors


def noted_anew(state_file: Path, state: dict[str, Any]) -> None:
    """Writes a state with the checksums of the files as they are now, as one who means it would."""
    for name in ("model", "optimizer"):
        files = [path.read_bytes() for path in sorted(state_file.parent.glob(f"{name}-*"))]
        if isinstance(state.get("tensors"), dict) and isinstance(state["tensors"].get(name), list):
            state["tensors"][name] = [{"bytes": len(data), "sha256": storage.sha256(data)} for data in files]
    state = {name: value for name, value in state.items() if name != "sha256"}
    state_file.write_bytes(storage.to_json({**state, "sha256": storage.sha256(storage.to_json(state))}))


def mutate(generator: random.Random, where: Path) -> tuple[str, bool]:
    """Damages one file; says what was done, and whether the checksums were made to agree."""
    files = sorted(
        path
        for path in where.rglob("*")
        if path.is_file() and path.name not in ("report.html", "metrics.jsonl") and "dead" not in str(path)
    )
    by_kind = {suffix: [path for path in files if path.suffix == suffix] for suffix in (".json", ".safetensors")}
    path = generator.choice([*by_kind[".json"] * 3, *by_kind[".safetensors"] * 3, *files])
    data = path.read_bytes()
    kind, forged = generator.randrange(4), False
    if kind == 0:
        path.write_bytes(data[: generator.randrange(len(data))])
    elif kind == 1:
        for _ in range(generator.choice([1, 1, 3, 30])):
            place = generator.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]
        path.write_bytes(data)
    elif kind == 2:
        others = [other for other in files if other.suffix == path.suffix and other != path]
        path.write_bytes(generator.choice(others).read_bytes())
    elif path.suffix == ".json":
        changed = replaced(generator, json.loads(data))
        forged = path.name == "state.json" and isinstance(changed, dict) and generator.random() < 0.5
        if forged:
            noted_anew(path, changed)
        else:
            path.write_text(json.dumps(changed))
    elif path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save(other_tensors(generator, safetensors.torch.load(data))))
        forged = generator.random() < 0.7
        if forged:
            noted_anew(path.parent / "state.json", json.loads((path.parent / "state.json").read_bytes()))
    else:
        path.unlink()
    return f"{('cut', 'flipped', 'swapped', 'replaced')[kind]} {path.relative_to(where)}, forged: {forged}", forged


def main(log: str, scratch: str, cases: int) -> None:
    alone, together = Path(scratch, "alone"), Path(scratch, "together")
    make(log, alone, together)
    acts: tuple[tuple[Path, Callable[[Path], Any]], ...] = (
        (alone, evaluate), (together, score), (alone, resume), (together, evaluate), (alone, score),
        (together, resume_rounds),
    )  # fmt: skip
    right = []
    for number, (whole, act) in enumerate(acts):
        shutil.copytree(whole, Path(scratch, f"right-{number}"))
        right.append(act(Path(scratch, f"right-{number}")))
    outcomes: Counter[str] = Counter()
    for number in range(cases):
        generator, where = random.Random(number), Path(scratch, "case")
        whole, act = acts[number % len(acts)]
        shutil.copytree(whole, where)
        what, forged = mutate(generator, where)
        print(f"case {number}: {act.__name__} {whole.name}, {what}", flush=True)
        try:
            found = act(where)
        except InputError as error:
            outcomes["refused"] += 1
            if "\n" in str(error):
                raise
        else:
            outcomes["forged" if forged else "right"] += 1
            assert forged or found == right[number % len(acts)], "another result, and no word"
        shutil.rmtree(where)
    print(json.dumps(outcomes))
    # Not all that was damaged is read.
    assert min(outcomes["refused"], outcomes["right"]) > 0


def make(log: str, alone: Path, together: Path) -> None:
    """Twice the same data set, and runs of it that have not come to their end."""
    from nnsparse_stream.pipelines import cli

    flags = ["--axis", "user", "--folds", "80,10,10", "--num_shards", "2"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(["prepare", "--input", log, "--output", str(alone / "data"), *flags]) == 0
        shutil.copytree(alone / "data", together / "data")
        train(request(alone, max_steps=10, checkpoint_steps=5))
    parts._LEAST_BYTES = 100
    train_in_rounds(request(together, **ROUNDS), until=3)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
