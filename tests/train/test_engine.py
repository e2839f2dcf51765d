"""The engine around the model, in this process alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from alone import begin
from synthetic import make_run
from vitascope.feed.plan import Position
from vitascope.model import dit
from vitascope.train.engine import Ranks
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

    monkeypatch.setattr(dit, "checkpoint", checkpoint)
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
