"""Training as one of several ranks, without Ray; tests call it in processes of its own."""

import os
from pathlib import Path

import torch
import torch.distributed as dist

from alone import begin
from synthetic import make_run
from vitascope.config import Settings
from vitascope.feed.plan import Position
from vitascope.train import engine
from vitascope.train.engine import Ranks
from vitascope.train.step import take_step

STEPS = 4
Figures = list[tuple[float | None, float | None]]


def figures(folder: str, rank: int, size: int, runs: list[list[str]]) -> list[Figures]:
    """Loss and gradient norm of the first steps of each run, given by its settings.

    This is `rank` among `size`, which find each other in `folder`. No weight is small enough to stay whole on
    every rank.
    """
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    engine.SMALL_WEIGHT = 0
    Path(folder).mkdir(exist_ok=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=size)
    ranks = Ranks(rank, size, torch.device("cpu"))
    found = [_trained(make_run(f"{folder}/{rank}-{n}", run), ranks) for n, run in enumerate(runs)]
    dist.destroy_process_group()
    return found


def _trained(settings: Settings, ranks: Ranks) -> Figures:
    around, feed = begin(settings, ranks)
    rows = [take_step(around, ranks, step).row for step in feed.steps(Position(), STEPS)]
    return [(row["loss"], row["grad_norm"]) for row in rows]
