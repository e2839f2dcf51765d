"""The engine around the model, in this process alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from synthetic import make_run
from vitascope.feed.packs import Pack
from vitascope.feed.plan import Position
from vitascope.feed.source import Source, load_pack
from vitascope.feed.stream import Feed, Row
from vitascope.model import dit
from vitascope.train.engine import Engine, Ranks
from vitascope.train.step import take_step
from vitascope.train.trainer import plan_job

STEPS = 3
"""The output layer begins at zero: only from the second step on do gradients pass through the blocks."""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ranks]:
    """This process as the only rank; afterwards torch's linear is no longer DeepSpeed's."""
    monkeypatch.setattr(functional, "linear", functional.linear)
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield Ranks(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


def test_activation_checkpointing_changes_no_loss_and_no_gradient(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed = []

    def checkpoint(block: Any, *args: Any, **kwargs: Any) -> Any:
        recomputed.append(block)
        return torch.utils.checkpoint.checkpoint(block, *args, **kwargs)

    monkeypatch.setattr(dit, "checkpoint", checkpoint)
    plain = figures(alone, tmp_path, "false")
    assert not recomputed
    assert figures(alone, tmp_path, "true") == plain
    assert recomputed
    assert all(norm > 0 for _, norm in plain)


def figures(ranks: Ranks, folder: Path, activation_checkpointing: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of the first steps."""
    settings = make_run(
        str(folder), ["train.bf16=false", f"train.activation_checkpointing={activation_checkpointing}"]
    )
    job = plan_job(settings)
    feed = Feed(job.source("train", job.draws), rank=0, world_size=1, prefetch_packs=2, load=load)
    torch.manual_seed(0)
    model = job.card.build()
    model.activation_checkpointing = settings.train.activation_checkpointing
    engine = Engine(model, settings.train, ranks, passes=feed.passes)
    rows = [take_step(engine, ranks, step) for step in feed.steps(Position(), STEPS)]
    return [(row["loss"], row["grad_norm"]) for row in rows]


def load(source: Source, rows: list[Row]) -> Iterator[Pack]:
    """Packs without Ray Data."""
    for row in rows:
        yield load_pack(source, Position(row["epoch"], row["window"], row["step"]), row["pack"])
