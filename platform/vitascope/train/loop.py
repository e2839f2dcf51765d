"""The program of every rank of a training run."""

import time
from contextlib import nullcontext
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import ray.train
import ray.train.torch
import torch

from vitascope import checksum, precision, storage
from vitascope.cluster.placement import node_labels
from vitascope.feed.plan import Position
from vitascope.feed.source import has_samples
from vitascope.feed.stream import Feed, execute
from vitascope.metrics import Publisher
from vitascope.model import flow
from vitascope.model.formats.start import open_start
from vitascope.stages import runner
from vitascope.train import held_out
from vitascope.train.engine import Ranks, engine_of
from vitascope.train.guard import Guard
from vitascope.train.job import Job, State, state_in
from vitascope.train.log import Row, StepLog
from vitascope.train.shards import Shards
from vitascope.train.step import (
    finite,
    gather_over_ranks,
    peak_memory_bytes,
    sum_over_ranks,
    take_step,
)
from vitascope.train.stopping import Signs


def worker(config: dict[str, Job]) -> None:
    """Entry point of a Ray Train worker."""
    Loop(config["job"]).run()


class Loop:
    """Steps, held-out losses and checkpoints of one rank."""

    def __init__(self, job: Job) -> None:
        context = ray.train.get_context()
        device = ray.train.torch.get_device()
        self.job, self.settings = job, job.settings
        self.ranks = Ranks(context.get_world_rank(), context.get_world_size(), device)
        self.position = Position()
        self.feed = self._feed("train", job.draws)
        self.held_out = self._feed("val", job.probe) if has_samples(job.latents, "val") else None
        checkpoint = ray.train.get_checkpoint()
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            self._begin(folder)
        self.guard = Guard(job.not_finite, self.settings.train, self.ranks, self.engine.step_number)
        self.publisher = Publisher(run=self.settings.run.folder)

    def _begin(self, folder: str | None) -> None:
        """Fresh weights, or those of a checkpoint's folder, in the precision that all ranks agree on."""
        state = state_in(folder) if folder else None
        machines = gather_over_ranks(precision.inspect(self.ranks.device), self.ranks)
        recorded = state.identity.get("precision") if state else None
        train = self.settings.train
        self.precision, self.chosen = precision.choose(train.precision, recorded, precision.slowest(machines))
        torch.manual_seed(self.settings.run.seed)
        self.engine = engine_of(
            self.job.card, train, self.ranks, passes=self.feed.passes, precision=self.precision
        )
        model = self.job.card.model
        if model.start_from and (model.lora or not state):
            self.engine.begin_with(open_start(model.start_from).weights)
        if folder and state:
            self.engine.load(folder, state)
            self.position = state.position

    def _feed(self, split: str, draws: flow.Draws | flow.Probe) -> Feed:
        return Feed(
            self.job.source(split, draws),
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            prefetch_packs=self.settings.feed.prefetch_packs,
            load=partial(execute, labels=node_labels(self.settings, "train")),
        )

    def run(self) -> None:
        """Trains from the last checkpoint to the last step, or until it must end or is asked to stop.

        Writes checkpoints at regular steps, and when it stops, and when a node is known to go away.
        """
        train, start = self.settings.train, self.engine.step_number
        log = StepLog(self.job.metrics, start) if self.ranks.rank == 0 else None
        if log:
            self._announce(start)
        if start == 0:
            self._note(log, self.validate())
        signs = Signs(self.job.stop_request, self.ranks)
        for step in self.feed.steps(self.position, train.steps - start):
            taken = take_step(self.engine, self.ranks, step)
            self._note(log, taken.row)
            self.position = step.after
            done = self.engine.step_number
            stop, node_goes = signs.look()
            commit = done % train.checkpoint_every == 0 or done == train.steps or stop or node_goes
            failed = self.guard.after_step(taken, self.engine) or (commit and self.guard.weights(self.engine))
            if failed:
                self._give_up(log, failed)
                return
            if done % train.val_every == 0 or done == train.steps:
                self._note(log, self.validate())
            if commit:
                if log:
                    log.cut(done)
                self.checkpoint()
            if stop:
                return

    def validate(self) -> Row:
        """A row with the held-out loss: of each noise level and their mean; None without held-out samples."""
        row: Row = {"step": self.engine.step_number, "val_loss": None}
        if self.held_out is None:
            return row
        levels = self.job.probe.levels
        self.engine.train(False)
        epochs = self.held_out.epochs(len(levels))
        sums = held_out.sums(self.engine.model, epochs, len(levels), self.ranks.device)
        self.engine.train(True)
        totals = np.array(sum_over_ranks(sums.ravel().tolist(), self.ranks)).reshape(sums.shape)
        losses = totals[:, 0] / totals[:, 1]
        by_level = [finite(float(loss)) for loss in losses]
        return {**row, "val_loss": finite(float(losses.mean())), "val_loss_by_level": by_level}

    def _give_up(self, log: StepLog | None, why: str) -> None:
        """Records the reason in the log. An error would make Ray Train repeat the same steps."""
        if log:
            log.write({"step": self.engine.step_number, "failed": why})
            log.flush()

    def checkpoint(self) -> None:
        """Commits weights, optimizer, EMA and the feed's position together."""
        with TemporaryDirectory() as folder:
            shards = self.engine.save(folder)
            if self.ranks.rank == 0:
                for name, content in self._about(shards).items():
                    storage.put(storage.join(folder, name), content)
                    checksum.seal(storage.join(folder, name))
            ray.train.report(
                {"step": shards.step},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step-{shards.step:08d}",
            )
        if self.ranks.rank == 0:
            self.publisher.set("train_checkpoint_time_s", time.time())

    def _about(self, shards: Shards) -> dict[str, bytes]:
        """The small files of a checkpoint, by name."""
        identity = self.job.identity | {"precision": self.precision}
        made_with = runner.values_before(self.settings, "train")
        state = State(**dict(shards), identity=identity, position=self.position, made_with=made_with)
        card = self.job.card.model_copy(update={"step": shards.step, "precision": self.precision})
        return {
            "state.json": storage.json_bytes(state.model_dump()),
            "model.json": card.model_dump_json(indent=2).encode(),
        }

    def _note(self, log: StepLog | None, row: Row) -> None:
        memory = peak_memory_bytes(self.ranks.device)
        self.publisher.set("train_memory_bytes", memory, rank=str(self.ranks.rank))
        if log:
            log.write(row)
            self.publisher.publish(row)
            self.publisher.add("train_steps_skipped", row.get("not_finite", 0.0))
            self.publisher.set("stage_items_done", self.engine.step_number, stage="train")

    def _announce(self, start: int) -> None:
        """Leaves a note for the driver, and publishes what is constant while these ranks live."""
        storage.put_json(self.job.start, {"chosen": self.chosen, "step": start, "time": time.time()})
        publisher, train = self.publisher, self.settings.train
        publisher.add("train_starts")
        publisher.set("train_world_size", self.ranks.size)
        publisher.set("train_checkpoint_time_s", time.time())
        publisher.set("stage_items", train.steps, stage="train")
        publisher.set("stage_items_done", start, stage="train")
        publisher.set("stage_running", 1, stage="train")
        if peak := precision.peak_flops_per_s(self.ranks.device, self.precision):
            publisher.set("train_peak_flops_per_s", peak * self.ranks.size)
