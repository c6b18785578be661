"""One worker of a run in rounds: its replica of the model, its optimiser's state, and its share of the rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nnsparse_stream.checkpoints.changes import changes_directory, write_change
from nnsparse_stream.checkpoints.checkpoint import Checkpoint, load_tensors, write_optimizer
from nnsparse_stream.checkpoints.parts import part_range, read_part
from nnsparse_stream.checkpoints.state import CheckpointState, step_directory
from nnsparse_stream.data.dataset import Dataset
from nnsparse_stream.errors import InputError
from nnsparse_stream.evaluation.judging import judge_batch
from nnsparse_stream.evaluation.metric_sums import MetricSums
from nnsparse_stream.feeding.fold_cache import choose_cache, free_memory
from nnsparse_stream.feeding.order import Cursor
from nnsparse_stream.feeding.shares import shares
from nnsparse_stream.feeding.stream import Minibatch, TrainingStream
from nnsparse_stream.nn.batchifier import Batchifier
from nnsparse_stream.nn.devices import pick_device
from nnsparse_stream.nn.model import Model
from nnsparse_stream.objectives.objectives import recipe_from_json
from nnsparse_stream.objectives.recipe import StepRecipe
from nnsparse_stream.objectives.worker_recipe import worker_recipe
from nnsparse_stream.rounds.round_epochs import awaiting_end, sums_told
from nnsparse_stream.rounds.rounds import Told, base_of
from nnsparse_stream.training.progress import peak_memory
from nnsparse_stream.training.run import TrainingRequest, no_sums
from nnsparse_stream.training.step_sums import READ_STEPS, StepSums, diverged
from nnsparse_stream.training.steps import Trainer


class RoundWorker:
    """A worker between its rounds. All that it holds is also on storage: a new one goes on with the same bits.

    Memory: the model and the optimiser's state, the blocks of rows of `TrainingStream` (or, with a cache, the share's
    training entries), a part of the model while that is read or written.

    Attributes:
        key: the run and the worker's number.
        made_for: the request and the job.
        after: the last round that it has trained, or that it was made of.
        fingerprint: SHA-256 of the optimiser's state on storage after that; None before the first round.
        trainer: does the steps.
    """

    def __init__(self, request: TrainingRequest, base: CheckpointState, worker: int, job: str) -> None:
        """Takes up a worker's work where a checkpoint has it.

        Args:
            request: the run.
            base: the checkpoint of the last whole round.
            worker: from 0.
            job: that trains.

        Raises:
            InputError: the data set is another one, or a file of it or of the checkpoint is missing or damaged.
        """
        state = base.state
        rounds, recipe, at = state["rounds"], recipe_from_json(state["recipe"]), state["rounds"]["at"][worker]
        assert isinstance(recipe, StepRecipe)
        self._request, self._worker, self._workers = request, worker, int(rounds["workers"])
        self._recipe = worker_recipe(recipe, self._workers)
        self._dataset, self._device = Dataset(request.data), pick_device(request.device)
        manifest = self._dataset.manifest
        if manifest.fingerprint() != state["data"]:
            raise InputError(f"{request.data} was replaced while {request.output} was trained on it")
        self._total = max(int(rounds["entries"][worker]), 1)
        self._parts = len(state["tensors"]["model"])
        self.key, self.made_for, self.after = (request.output, worker), (request, job), int(state["step"])
        checkpoint = load_tensors(base)
        self._model_step = int(state["step"])
        layer = recipe.stage(state["epoch"] + 1).layer
        # A worker's draws are its own, and those of a worker alone are a run's of one worker.
        seed = (request.seed + worker * 0xD1B54A32D192ED03) & (2**63 - 1)
        own = Checkpoint(base.url, {**state, "step": at["step"]}, checkpoint.model)
        self.trainer = Trainer(own, self._recipe, seed, self._device, layer, worker)
        self.fingerprint = fingerprint(base, worker)
        cache, _ = choose_cache(
            request.cache, 8 * self._total, self._device, self.trainer.optimizer.missing_state_bytes()
        )
        batchifier = Batchifier(self._recipe.batch_rows, self._recipe.batch_entries)
        share = shares(manifest, self._workers)[worker]
        self._stream = TrainingStream(
            self._dataset, request.seed, batchifier, self._device, cache, share=share, worker=worker,
            entries=self._total,
        )  # fmt: skip
        self._minibatches: Generator[Minibatch | None, None, None] = self._stream.epochs(
            state["epoch"] + 1, recipe.all_epochs, Cursor(*at["cursor"])
        )
        self._epoch_ended = False

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._minibatches.close()

    def has_room(self) -> bool:
        """Whether the memory that is free has room for another worker like this one."""
        state = [held for each in self.trainer.optimizer.state.values() for held in each.values()]
        size = sum(held.nbytes for held in [*self.trainer.model.state_dict().values(), *state])
        if self._device.type == "cuda":
            return size <= int(torch.cuda.mem_get_info(self._device)[0])
        free = free_memory(Path("/"))
        return free is not None and size + 8 * self._total <= free

    def model(self, checkpoint: CheckpointState) -> Model:
        """The replica, with the weights of a checkpoint."""
        if self._model_step != checkpoint.state["step"]:
            for part in range(self._parts):
                self._take(part, read_part(checkpoint, part))
            self._model_step = int(checkpoint.state["step"])
        return self.trainer.model

    @torch.no_grad()
    def _take(self, part: int, tensors: dict[str, torch.Tensor]) -> None:
        """Takes the weights of a part of the model."""
        model = self.trainer.model
        rows, held = part_range(model.num_columns, self._parts, part), model.state_dict()
        for name, values in tensors.items():
            (held[name][rows] if name in model.column_tensors else held[name]).copy_(values)

    def train(self, base: CheckpointState, number: int) -> Told | None:
        """Trains a round.

        Args:
            base: the checkpoint of the round before.
            number: of the round.

        Returns:
            What `rounds.merge_round` and `rounds.finish_round` need to know; None, and nothing is written, where
            another attempt was faster and the round is done.

        Raises:
            InputError: it diverged, or another job has taken up the run meanwhile.
        """
        begun = time.time()
        state = base.state
        rounds, recipe = state["rounds"], recipe_from_json(state["recipe"])
        assert isinstance(recipe, StepRecipe)
        epoch, at = state["epoch"] + 1, dict(rounds["at"][self._worker])
        is_last = rounds["done"] + 1 == rounds["of_epoch"]
        until = None if is_last else self._total * (rounds["done"] + 1) / rounds["of_epoch"]
        model = self.model(base).train()
        self._model_step = -1
        touches = self._count_touches(model)
        sums = StepSums(no_sums(), self._device)
        waited, started = self._stream.waited, time.perf_counter()
        self._steps(epoch, at, until, sums)
        took = time.perf_counter() - started
        if is_last:
            self._epoch_ended = False
            if epoch < recipe.all_epochs:
                self.trainer.begin(recipe.stage(epoch + 1).layer)
        # A round takes long: what an attempt writes that the engine has given up could replace what others read.
        if base_of(self._request, number, self.made_for[1]) is None:
            return None
        folder, url = changes_directory(self._request.output, number), step_directory(self._request.output, number)
        changes = [write_change(folder, self._worker, part, self._parts, model, touches) for part in range(self._parts)]
        optimizer = write_optimizer(url, self.trainer.optimizer, self._worker, self._workers)
        self.after, self.fingerprint = number, optimizer.sha256
        return {
            "worker": self._worker,
            "begun": begun,
            "ended": time.time(),
            "seconds": took,
            "waited": self._stream.waited - waited,
            **{name: sums.sums[name] for name in ("entries", "rows", "batches", "terms")},
            "learning_rate": self.trainer.learning_rate if sums.sums["batches"] else 0.0,
            "at": at,
            "device": str(self._device),
            "peak_memory_bytes": peak_memory(),
            "changes": [asdict(file) for file in changes],
            "optimizer": asdict(optimizer),
        }

    def _count_touches(self, model: Model) -> dict[str, torch.Tensor]:
        """Has the optimiser count how often it updates each row of what has a row for each column."""
        named = {name: held for name, held in model.named_parameters() if name in model.column_tensors}
        optimizer = self.trainer.optimizer
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        touches = {
            name: torch.zeros(len(held), dtype=torch.int32, device=self._device)
            for name, held in named.items()
            if id(held) in trained
        }
        optimizer.touches = {named[name]: counts for name, counts in touches.items()}
        return touches

    def _steps(self, epoch: int, at: dict[str, Any], until: float | None, sums: StepSums) -> None:
        """Trains on minibatches until so many entries of the epoch are done; to its end where None."""
        recipe, stage = self._recipe, self._recipe.stage(epoch)
        while not self._epoch_ended and (until is None or at["entries"] < until):
            minibatch = next(self._minibatches)
            if minibatch is None:
                self._epoch_ended = True
                break
            progress = (stage.epoch - 1 + min(at["entries"] / self._total, 1.0)) / stage.epochs
            rate = recipe.learning_rate_at(stage.epoch, progress)
            sums.add(minibatch.rows, self.trainer.train_batch(minibatch.rows, rate, progress))
            at["entries"] += minibatch.rows.num_entries
            at["cursor"] = list(minibatch.after)
            at["step"] += 1
            if at["step"] % READ_STEPS == 0:
                self._read(sums, epoch)
        self._read(sums, epoch)

    def _read(self, sums: StepSums, epoch: int) -> None:
        if not sums.read():
            raise diverged(self._dataset, self._recipe, epoch, self.trainer.learning_rate)


def fingerprint(base: CheckpointState, worker: int) -> str | None:
    """SHA-256 of a worker's optimiser state in a checkpoint; None before the first round."""
    files = base.state["tensors"]["optimizer"]
    return str(files[worker]["sha256"]) if files else None


class HeldWorkers:
    """The workers that a process keeps between rounds; where memory has no room for another, the oldest goes first."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int], RoundWorker] = {}
        self._lock = threading.Lock()

    def take(self, request: TrainingRequest, base: CheckpointState, worker: int, job: str) -> RoundWorker:
        """A worker as it was after a checkpoint's round: the one that is here, or a new one. It is the caller's alone.

        Raises:
            InputError: see `RoundWorker`.
        """
        held = self.find(request, base, worker, job)
        if held is not None:
            return held
        while (oldest := self._oldest()) is not None and not oldest.has_room():
            self._put(oldest.key, None)
        return RoundWorker(request, base, worker, job)

    def find(self, request: TrainingRequest, base: CheckpointState, worker: int, job: str) -> RoundWorker | None:
        """As `take`; None where it is not here.

        One of the same job: what another one has trained there may have been of other data, or another recipe.
        """
        with self._lock:
            held = self._held.pop((request.output, worker), None)
        if held is None:
            return None
        wanted = ((request, job), base.state["step"], fingerprint(base, worker))
        if (held.made_for, held.after, held.fingerprint) != wanted:
            held.close()
            return None
        return held

    def keep(self, held: RoundWorker) -> None:
        """Keeps a worker for its next round."""
        self._put(held.key, held)

    def forget(self, output: str) -> None:
        """Gives up the workers of a run."""
        with self._lock:
            keys = [key for key in self._held if key[0] == output]
        for key in keys:
            self._put(key, None)

    def _oldest(self) -> RoundWorker | None:
        with self._lock:
            return next(iter(self._held.values()), None)

    def _put(self, key: tuple[str, int], held: RoundWorker | None) -> None:
        with self._lock:
            before = self._held.pop(key, None)
            if held is not None:
                self._held[key] = held
        if before is not None:
            before.close()


#: Those of this process.
HELD = HeldWorkers()


def train_round(request: TrainingRequest, number: int, worker: int, job: str) -> Told | None:
    """Trains a worker's part of a round, and writes its change and its optimiser's state.

    Args:
        request: the run.
        number: of the round, from 1.
        worker: from 0.
        job: that trains.

    Returns:
        What `rounds.merge_round` and `rounds.finish_round` need to know; None where the round is done.

    Raises:
        InputError: it diverged, or files are missing or damaged, or another job has taken up the run.
    """
    base = base_of(request, number, job)
    if base is None:
        return None
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    held = HELD.take(request, base, worker, job)
    told = None
    try:
        told = held.train(base, number)
    finally:
        if told is None:
            held.close()
    if told is not None:
        HELD.keep(held)
    return told


def judge_share(request: TrainingRequest, number: int, worker: int, job: str) -> list[Told]:
    """Judges an epoch's model on a worker's part of the shards.

    Args:
        request: the run.
        number: of the epoch's last round.
        worker: from 0.
        job: that trains.

    Returns:
        What `rounds.finish_epoch` needs to know of each shard; nothing where the epoch has ended, or trains one layer
        alone.
    """
    checkpoint = awaiting_end(request, number, job)
    if checkpoint is None:
        return []
    state = checkpoint.state
    recipe = recipe_from_json(state["recipe"])
    assert isinstance(recipe, StepRecipe)
    if recipe.stage(state["epoch"] + 1).layer is not None:
        return []
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    # The replica takes the merged weights now, and not at the beginning of the next round.
    held = HELD.find(request, checkpoint, worker, job)
    model = load_tensors(checkpoint).model.to(pick_device(request.device)) if held is None else held.model(checkpoint)
    model.eval()
    dataset, metrics = Dataset(request.data), request.metrics()
    judged = []
    for shard in range(worker, len(dataset.shards), request.workers):
        sums = MetricSums.of(metrics, dataset.manifest.num_columns)
        for batch in dataset.shard_batches(shard):
            sums += judge_batch(model, batch, 1, metrics)
        judged.append(sums_told(shard, sums))
    if held is not None:
        HELD.keep(held)
    return judged
