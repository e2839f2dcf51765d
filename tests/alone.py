"""A training run without Ray, in this process or of several ranks that tests start."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitascope.config import Settings
from vitascope.feed.packs import Pack
from vitascope.feed.plan import Position
from vitascope.feed.source import Source, load_pack
from vitascope.feed.stream import Feed, PlannedPack
from vitascope.model.formats.start import open_start
from vitascope.train import held_out
from vitascope.train.engine import Engine, Ranks, engine_of
from vitascope.train.log import Row
from vitascope.train.shards import Shards
from vitascope.train.stage import plan_job
from vitascope.train.step import take_step


def begin(settings: Settings, ranks: Ranks) -> tuple[Engine, Feed]:
    """The engine with fresh weights or those it starts from, and the feed of this rank's training samples."""
    job = plan_job(settings)
    feed = Feed(
        job.source("train", job.draws), rank=ranks.rank, world_size=ranks.size, prefetch_packs=2, load=load
    )
    torch.manual_seed(settings.run.seed)
    engine = engine_of(job.card, settings.train, ranks, passes=feed.passes, precision="float32")
    if start := job.card.model.start_from:
        engine.begin_with(open_start(start).weights)
    return engine, feed


def resumed(
    settings: Settings, ranks: Ranks, folder: Path, *, steps: int
) -> tuple[list[Row], list[Row], Shards]:
    """The rows of a run's steps, those after the second if it is resumed there, and what was saved then."""
    engine, feed = begin(settings, ranks)
    rows = []
    for step in feed.steps(Position(), steps):
        rows.append(take_step(engine, ranks, step).row)
        if len(rows) == 2:
            shards, position = engine.save(folder), step.after
    again, feed = begin(settings, ranks)
    again.load(folder, shards)
    later = [take_step(again, ranks, step).row for step in feed.steps(position, steps - 2)]
    return rows, later, shards


def load(source: Source, packs: list[PlannedPack]) -> Iterator[Pack]:
    """Packs without Ray Data."""
    for pack in packs:
        yield load_pack(source, Position(pack.epoch, pack.window, pack.step), pack.number)


def held_out_losses(settings: Settings, model: Any, ranks: int = 1) -> np.ndarray:
    """The loss at each level, as measured by this number of ranks."""
    job, total = plan_job(settings), np.zeros(2)
    for rank in range(ranks):
        feed = Feed(job.source("val", job.probe), rank=rank, world_size=ranks, prefetch_packs=2, load=load)
        n_levels = len(job.probe.levels)
        total = total + held_out.sums(model, feed.epochs(n_levels), n_levels, torch.device("cpu"))
    return total[:, 0] / total[:, 1]
