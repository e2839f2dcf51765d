"""What every rank of a training run does."""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import ray.train.torch
import torch

from vitascope import checksum, storage
from vitascope import flow as stages
from vitascope.cluster.placement import node_labels
from vitascope.feed.plan import Position
from vitascope.feed.source import has_samples
from vitascope.feed.stream import Feed, execute
from vitascope.model import flow
from vitascope.observe.metrics import Publisher
from vitascope.train.engine import Engine, Ranks
from vitascope.train.job import Job
from vitascope.train.log import StepLog
from vitascope.train.step import peak_flops_per_s, peak_memory_bytes, sum_over_ranks, take_step
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
        self.held_out = self._feed("val", job.held_out_draws) if has_samples(job.latents, "val") else None
        torch.manual_seed(self.settings.run.seed)
        model = job.card.build()
        model.activation_checkpointing = self.settings.train.activation_checkpointing
        self.engine = Engine(model.to(device), self.settings.train, self.ranks, passes=self.feed.passes)
        self._resume()
        self.publisher = Publisher(run=self.settings.run.folder)

    def _feed(self, split: str, draws: flow.Draws) -> Feed:
        return Feed(
            self.job.source(split, draws),
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            prefetch_packs=self.settings.feed.prefetch_packs,
            load=partial(execute, labels=node_labels(self.settings, "train")),
        )

    def run(self) -> None:
        """Trains from the last checkpoint to the last step, or until it is asked to stop.

        Checkpoints, beside every so many steps, when it stops and when it is known that a node will go.
        """
        train, start = self.settings.train, self.engine.step_number
        log = StepLog(self.job.metrics, start) if self.ranks.rank == 0 else None
        if log:
            self._announce(start)
        if start == 0:
            self._note(log, {"step": 0, "val_loss": self.validate()})
        signs = Signs(self.job.stop_request, self.ranks)
        for step in self.feed.steps(self.position, train.steps - start):
            self._note(log, take_step(self.engine, self.ranks, step))
            self.position = step.after
            done = self.engine.step_number
            if done % train.val_every == 0 or done == train.steps:
                self._note(log, {"step": done, "val_loss": self.validate()})
            stop, node_goes = signs.look()
            if done % train.checkpoint_every == 0 or done == train.steps or stop or node_goes:
                if log:
                    log.cut(done)
                self.checkpoint()
            if stop:
                return

    def validate(self) -> float | None:
        """Loss on the whole held-out split with the same noise every time; None where the split is empty."""
        if self.held_out is None:
            return None
        self.engine.train(False)
        loss = 0.0
        with torch.no_grad():
            for step in self.held_out.epoch(0):
                for pack in step.packs:
                    loss += float(flow.loss(self.engine.model, pack.to(self.ranks.device)))
        self.engine.train(True)
        return sum_over_ranks([loss], self.ranks)[0] / self.held_out.total_tokens

    def checkpoint(self) -> None:
        """Commits weights, optimizer, EMA and the feed's position together."""
        with TemporaryDirectory() as folder:
            state = self.engine.save(folder)
            if self.ranks.rank == 0:
                for name, content in self._about(state).items():
                    storage.put(storage.join(folder, name), content)
                    checksum.seal(storage.join(folder, name))
            ray.train.report(
                {"step": state["step"]},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step-{state['step']:08d}",
            )
        if self.ranks.rank == 0:
            self.publisher.set("train_checkpoint_time_s", time.time())

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            checksum.check(str(Path(folder) / "state.json"))
            state = storage.read_json(str(Path(folder) / "state.json"))
            self.engine.load(folder, state)
            self.position = Position(**state["position"])

    def _about(self, state: dict[str, Any]) -> dict[str, bytes]:
        """The small files of a checkpoint, by name."""
        common = {"identity": self.job.identity, "position": asdict(self.position)}
        common["made_with"] = stages.values_before(self.settings, "train")
        card = self.job.card.model_copy(update={"step": state["step"]})
        return {
            "state.json": storage.json_bytes(state | common),
            "model.json": card.model_dump_json(indent=2).encode(),
        }

    def _note(self, log: StepLog | None, row: dict[str, Any]) -> None:
        memory = peak_memory_bytes(self.ranks.device)
        self.publisher.set("train_memory_bytes", memory, rank=str(self.ranks.rank))
        if log:
            log.write(row)
            self.publisher.publish(row)
            self.publisher.set("stage_items_done", self.engine.step_number, stage="train")

    def _announce(self, start: int) -> None:
        """Publishes what stays as it is while these ranks live."""
        publisher, train = self.publisher, self.settings.train
        publisher.add("train_starts")
        publisher.set("train_world_size", self.ranks.size)
        publisher.set("train_checkpoint_time_s", time.time())
        publisher.set("stage_items", train.steps, stage="train")
        publisher.set("stage_items_done", start, stage="train")
        publisher.set("stage_running", 1, stage="train")
        peak = peak_flops_per_s(self.ranks.device, train.bf16)
        if peak:
            publisher.set("train_peak_flops_per_s", peak * self.ranks.size)
