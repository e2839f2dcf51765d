"""Two ranks train as one does, with every weight split between them."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from train.of_ranks import Figures, figures


@pytest.mark.parametrize("network", [["model.network=dit"], ["model.network=wan", "model.ffn=96"]])
def test_two_ranks_train_as_one_does(network: list[str], tmp_path: Path) -> None:
    one = [*network, "train.activation_checkpointing=false"]
    two = [*network, "train.activation_checkpointing=true"]
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as ranks:
        alone = ranks.submit(figures, str(tmp_path / "alone"), 0, 1, one)
        together = [ranks.submit(figures, str(tmp_path / "together"), rank, 2, two) for rank in range(2)]
        expected: Figures = alone.result()
        for found in together:
            for step, reference in zip(found.result(), expected, strict=True):
                assert step == pytest.approx(reference, rel=1e-5)
    assert all(norm for _, norm in expected)
    assert len({loss for loss, _ in expected}) == 4
