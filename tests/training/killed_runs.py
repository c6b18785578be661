"""A program that trains, and is killed on the way: once for each case, at another point.

python killed_runs.py DATA_SET DIRECTORY
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from nnsparse_stream.checkpoints import checkpoint
from nnsparse_stream.objectives.presets import recipe
from nnsparse_stream.objectives.recipe import Recipe
from nnsparse_stream.training import run, steps
from nnsparse_stream.training.run import TrainingRequest
from nnsparse_stream.training.start import train


class Case(NamedTuple):
    """What is trained, and which call of which function never returns.

    With 400 rows and 20 a minibatch, an epoch has 20 steps or so, and a checkpoint is written after 7 and at its end.
    """

    recipe: Recipe
    owner: Any
    function: str
    call: int


CASES = {
    # Its tensors are there, the state is not.
    "cfn": Case(recipe("cfn", hidden=(8,), epochs=3, batch_rows=20, refeed_columns=6), checkpoint, "write_state", 4),
    # In the second epoch, between two checkpoints.
    "best-small-user": Case(
        recipe("best-small-user", hidden=(8,), epochs=3, batch_rows=20, storage="bfloat16"),
        steps.Trainer,
        "train_batch",
        32,
    ),
    # After the epoch's checkpoint, before its metrics; an inner layer is trained.
    "cfn-stacked": Case(
        recipe("cfn-stacked", hidden=(8, 6, 4), pretrain_epochs=1, epochs=2, batch_rows=20, momentum=0.5),
        run,
        "write_metrics",
        3,
    ),
}


def train_and_die(data: str, output: str, case: Case) -> None:
    """Trains until the case's call, and kills this process there."""
    function, calls = getattr(case.owner, case.function), 0

    def last_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == case.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(case.owner, case.function, last_call)
    request = TrainingRequest(data, output, case.recipe, threads=1, checkpoint_steps=7, keep_checkpoints=1000)
    train(request)


if __name__ == "__main__":
    for name, case in CASES.items():
        # Forked before anything is computed, so that all is imported once.
        child = os.fork()
        if not child:
            try:
                train_and_die(sys.argv[1], str(Path(sys.argv[2], name)), case)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, name
