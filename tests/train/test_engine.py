"""The engine around the model, in this process alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alone import begin
from synthetic import make_run
from vitascope.feed.plan import Position
from vitascope.feed.source import load_pack
from vitascope.model import flow, network
from vitascope.train.engine import Ranks
from vitascope.train.stage import plan_job
from vitascope.train.step import take_step

STEPS = 3
"""The output layer begins at zero: only from the second step on do gradients pass through the blocks."""


def test_activation_checkpointing_changes_no_loss_and_no_gradient(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recomputed = []

    def checkpoint(block: Any, *args: Any, **kwargs: Any) -> Any:
        recomputed.append(block)
        return torch.utils.checkpoint.checkpoint(block, *args, **kwargs)

    monkeypatch.setattr(network, "checkpoint", checkpoint)
    plain = figures(alone, tmp_path, "false")
    assert not recomputed
    assert figures(alone, tmp_path, "true") == plain
    assert recomputed
    assert all(norm > 0 for _, norm in plain)


def figures(ranks: Ranks, folder: Path, activation_checkpointing: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of the first steps."""
    settings = make_run(str(folder), [f"train.activation_checkpointing={activation_checkpointing}"])
    engine, feed = begin(settings, ranks)
    rows = [take_step(engine, ranks, step).row for step in feed.steps(Position(), STEPS)]
    return [(row["loss"], row["grad_norm"]) for row in rows]


@pytest.mark.parametrize("packs_per_step", [1, 2, 4])
def test_a_steps_loss_is_the_mean_over_its_tokens_however_they_are_packed(
    alone: Ranks, tmp_path: Path, packs_per_step: int
) -> None:
    sizes = [(5, 8, 12), *[(1, 4, 4)] * 6]  # one of 120 patches to six of 4
    settings = make_run(str(tmp_path), [f"feed.packs_per_step={packs_per_step}"], sizes=sizes)
    engine, feed = begin(settings, alone)
    job = plan_job(settings)
    source = job.source("train", job.draws)
    for step in feed.steps(Position(), 2):
        position = step.position
        packs = [load_pack(source, position, number) for number in range(packs_per_step)]
        with torch.no_grad():
            losses = torch.cat([flow.sample_losses(engine.model, pack) for pack in packs if len(pack.tokens)])
        tokens = torch.cat([pack.grids.prod(dim=1) for pack in packs if len(pack.tokens)])
        expected = float((losses * tokens).sum() / tokens.sum())
        row = take_step(engine, alone, step).row
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
        assert row["tokens"] == int(tokens.sum())
