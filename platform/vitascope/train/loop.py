"""What every rank of a training run does."""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from vitascope import storage
from vitascope.config import Settings
from vitascope.feed.plan import Position
from vitascope.feed.source import Source, has_samples
from vitascope.feed.stream import Feed, Step
from vitascope.model import flow
from vitascope.model.card import ModelCard
from vitascope.model.cost import cost_of
from vitascope.observe.metrics import Publisher
from vitascope.train.engine import Engine, Ranks
from vitascope.train.log import StepLog

BACKWARD_AND_FORWARD = 3  # a backward pass costs about twice its forward pass


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know: one value, sent to every worker."""

    settings: Settings
    latents: str
    card: ModelCard

    @property
    def draws(self) -> flow.Draws:
        """How samples are trained."""
        train = self.settings.train
        return flow.Draws(self.settings.run.seed, train.text_dropout, train.timestep_shift)

    @property
    def held_out_draws(self) -> flow.Draws:
        """How held-out samples are probed: always with their captions."""
        return replace(self.draws, text_dropout=0.0)

    def source(self, split: str, draws: flow.Draws) -> Source:
        """What decides the packs of a split."""
        feed, card = self.settings.feed, self.card
        return Source(
            latents=self.latents,
            split=split,
            patch=card.model.patch,
            seed=self.settings.run.seed,
            token_budget=feed.token_budget,
            packs_per_step=feed.packs_per_step,
            window_samples=feed.window_samples,
            cost=cost_of(card.model, card.channels, card.text_dim).of,
            draws=draws,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint and the run that goes on from it must agree on."""
        feed = self.settings.feed
        return {
            "fingerprint": self.card.fingerprint,
            "seed": self.settings.run.seed,
            "token_budget": feed.token_budget,
            "packs_per_step": feed.packs_per_step,
            "window_samples": feed.window_samples,
            "model": self.card.model.model_dump(),
        }


def worker(config: dict[str, Job]) -> None:
    """Entry point of a Ray Train worker."""
    Loop(config["job"]).run()


@dataclass
class Tally:
    """What a step adds up to on one rank."""

    loss: float = 0.0
    wait_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)


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
        )

    def run(self) -> None:
        """Trains from the last checkpoint to the last step."""
        train, start = self.settings.train, self.engine.step_number
        log = StepLog(self.settings.path("train", "metrics"), start) if self.ranks.rank == 0 else None
        if start == 0:
            self._note(log, {"step": 0, "val_loss": self.validate()})
        for step in self.feed.steps(self.position, train.steps - start):
            self._note(log, self.step(step))
            self.position = step.after
            done = self.engine.step_number
            if done % train.val_every == 0 or done == train.steps:
                self._note(log, {"step": done, "val_loss": self.validate()})
            if done % train.checkpoint_every == 0 or done == train.steps:
                if log:
                    log.cut(done)
                self.checkpoint()

    def step(self, step: Step) -> dict[str, Any]:
        """One global step: this rank's packs forward and backward, then the update. Returns the step's row."""
        tally, number = Tally(), self.engine.step_number
        for n in range(self.feed.passes):
            waiting = time.perf_counter()
            pack = next(step.packs).to(self.ranks.device)
            tally.wait_s += time.perf_counter() - waiting
            loss = flow.loss(self.engine.model, pack) / step.n_tokens
            self.engine.backward(loss, last=n == self.feed.passes - 1)
            tally.loss += float(loss.detach())
        norm, rate = self.engine.step()
        loss_sum, wait_s = self._sum([tally.loss, tally.wait_s])
        seconds = time.perf_counter() - tally.started
        return {
            "step": number,
            "epoch": step.position.epoch,
            "loss": loss_sum,
            "grad_norm": norm,
            "lr": rate,
            "tokens": step.n_tokens,
            "step_s": seconds,
            "tokens_per_s": step.n_tokens / seconds,
            "useful_token_share": step.useful_token_share,
            "cost_spread": step.cost_spread,
            "data_wait_share": wait_s / self.ranks.size / seconds,
            "flops_per_s": BACKWARD_AND_FORWARD * step.flops / seconds,
        }

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
        return self._sum([loss])[0] / self.held_out.total_tokens

    def checkpoint(self) -> None:
        """Commits weights, optimizer, EMA and the feed's position together."""
        with TemporaryDirectory() as folder:
            state = self.engine.save(folder)
            if self.ranks.rank == 0:
                storage.put_json(storage.join(folder, "state.json"), state | self._common())
                storage.put(storage.join(folder, "model.json"), self._card(state["step"]))
            ray.train.report(
                {"step": state["step"]},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step-{state['step']:08d}",
            )

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = storage.read_json(str(Path(folder) / "state.json"))
            self.engine.load(folder, state)
            self.position = Position(**state["position"])

    def _common(self) -> dict[str, Any]:
        return {"identity": self.job.identity, "position": asdict(self.position)}

    def _card(self, step: int) -> bytes:
        return self.job.card.model_copy(update={"step": step}).model_dump_json(indent=2).encode()

    def _note(self, log: StepLog | None, row: dict[str, Any]) -> None:
        if log:
            log.write(row)
            self.publisher.publish(row)

    def _sum(self, values: list[float]) -> list[float]:
        """Adds up values over the ranks, in float64."""
        total = torch.tensor(values, dtype=torch.float64, device=self.ranks.device)
        dist.all_reduce(total)
        return [float(v) for v in total]


def check_identity(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses to go on from a checkpoint of another run.

    Raises:
        ValueError: naming what differs.
    """
    differing = [f"{k}: checkpoint {found.get(k)!r}, settings {v!r}" for k, v in wanted.items() if found.get(k) != v]
    if differing:
        raise ValueError(
            "the run's folder holds a checkpoint made with other settings; use them, or another run.folder.\n  "
            + "\n  ".join(differing)
        )
