"""Training on a Ray cluster: whatever is killed, the run is the same run."""

import threading
import time
from pathlib import Path

import psutil
import pytest

from synthetic import CHANNELS, TEXT_DIM, make_run
from vitascope import storage
from vitascope.config import Settings
from vitascope.model.card import load_model
from vitascope.train import log, trainer

STEPS = 16
OVERRIDES = [f"train.steps={STEPS}", "train.checkpoint_every=5", "train.val_every=8", "train.max_failures=1"]
RANKS_TOLERANCE = 1e-5
"""Two ranks add up a step's gradients in another order than one: float32 rounding, which the following steps
carry on. Seen: 1e-7 relative over 20 steps."""


def losses(settings: Settings) -> list[float]:
    rows = [row for row in log.read(settings.path("train", "metrics")) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(STEPS))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Settings, dict]:  # noqa: ARG001
    settings = make_run(str(tmp_path_factory.mktemp("undisturbed")), [*OVERRIDES, "train.bf16=false"])
    return settings, trainer.run(settings)


def test_training_learns_and_says_how(undisturbed: tuple[Settings, dict]) -> None:
    settings, summary = undisturbed
    assert summary["steps"] == STEPS
    assert (summary["ranks"], summary["zero_stage"]) == (2, 3)
    assert summary["train_loss_last"] < summary["train_loss_first"]
    assert summary["val_loss_last"] < summary["val_loss_first"]
    assert 0.95 < summary["useful_token_share"] < 1
    assert storage.read_json(settings.path("summaries", "train.json")) == summary
    held_out = [row["step"] for row in log.read(settings.path("train", "metrics")) if "val_loss" in row]
    assert held_out == [0, 8, 16]


def test_the_model_is_published_with_its_card(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    model, card = load_model(settings.path("model"))
    assert (card.step, card.channels, card.text_dim) == (STEPS, CHANNELS, TEXT_DIM)
    assert any(p.abs().max() > 0 for p in [model.out.weight])  # it begins at zero


def test_running_again_trains_nothing_twice(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    before = losses(settings)
    assert trainer.run(settings)["steps"] == STEPS
    assert losses(settings) == before


def test_other_settings_do_not_go_on_from_a_checkpoint(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    other = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": 99})})
    with pytest.raises(ValueError, match="seed: checkpoint 0, settings 99"):
        trainer.run(other)


def test_a_killed_worker_changes_no_loss_to_the_last_bit(
    undisturbed: tuple[Settings, dict], tmp_path: Path
) -> None:
    settings = make_run(str(tmp_path), [*OVERRIDES, "train.bf16=false"])
    killer = Killer(settings, at_step=4)
    killer.start()
    trainer.run(settings)
    killer.join()
    assert killer.killed
    assert losses(settings) == losses(undisturbed[0])


def test_one_rank_goes_on_where_two_were(undisturbed: tuple[Settings, dict], tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), [*OVERRIDES, "train.bf16=false", "train.ranks=1"])
    trainer.run(settings)
    assert losses(settings) == pytest.approx(losses(undisturbed[0]), rel=RANKS_TOLERANCE)


class Killer(threading.Thread):
    """Kills one training worker with SIGKILL once the log shows a step."""

    def __init__(self, settings: Settings, at_step: int) -> None:
        super().__init__(daemon=True)
        self._metrics, self._at_step = settings.path("train", "metrics"), at_step
        self.killed = False

    def run(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self.killed:
            row = log.last_row(self._metrics)
            if row and row["step"] >= self._at_step:
                children = psutil.Process().children(recursive=True)
                workers = [p for p in children if "RayTrainWorker" in " ".join(p.cmdline())]
                workers[-1].kill()
                self.killed = True
            time.sleep(0.05)
