"""Two ranks train as one does, with every weight split between them."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from model.wan_reference import layout
from synthetic import CHANNELS, TEXT_DIM
from train.of_ranks import STEPS, figures

RUNS = [["model.network=dit"], ["model.network=wan", "model.ffn=96"]]
OF = layout(CHANNELS, TEXT_DIM, depth=2, width=64, heads=4, ffn=80)


def test_two_ranks_train_as_one_does(tmp_path: Path) -> None:
    """From fresh weights, and from published ones, of which each rank reads only its parts."""
    OF.theirs().save_pretrained(tmp_path / "published")
    runs = [
        *RUNS,
        ["model.depth=12", "model.width=64", "model.heads=4", f"model.start_from={tmp_path / 'published'}"],
    ]
    one, two = (
        [[*run, f"train.activation_checkpointing={recomputes}"] for run in runs]
        for recomputes in ("false", "true")
    )
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        alone = processes.submit(figures, str(tmp_path / "alone"), 0, 1, one)
        together = [processes.submit(figures, str(tmp_path / "together"), rank, 2, two) for rank in range(2)]
        results = [each.result() for each in (alone, *together)]
    for expected, *found in zip(*results, strict=True):
        assert len({loss for loss, _ in expected}) == STEPS
        assert all(norm for _, norm in expected)
        for steps in found:
            for step, reference in zip(steps, expected, strict=True):
                assert step == pytest.approx(reference, rel=1e-5)
