"""Training on a Ray cluster: whatever is killed, the run's results are the same."""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from ray.train import TrainingFailedError
from safetensors.torch import load_file

from alone import begin, held_out_losses
from model.wan_reference import layout
from synthetic import CHANNELS, TEXT_DIM, make_run
from vitascope import storage
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.feed.plan import Position
from vitascope.model.formats.load import load_model
from vitascope.precision import inspect
from vitascope.train import log, stage
from vitascope.train.engine import Ranks
from vitascope.train.stage import plan_job
from vitascope.train.step import take_step

STEPS = 30
"""Ray fetches a checkpoint from its workers every second here and lets one more wait: the one at 10 is
registered seconds before the last step."""
OVERRIDES = [
    f"train.steps={STEPS}",
    "train.checkpoint_every=5",
    "train.val_every=15",
    "train.precision=float32",
]
FIRST_RESUMED = 10
RANKS_TOLERANCE = 1e-5
"""Two ranks add a step's gradients in another order than one: float32 rounding, which the following steps
carry on. Seen: 1e-7 relative over 20 steps."""


def losses(settings: Settings, steps: int = STEPS) -> list[float]:
    rows = [row for row in log.read(settings.path("train", "metrics")) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(steps))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Settings, dict]:  # noqa: ARG001
    settings = make_run(str(tmp_path_factory.mktemp("undisturbed")), OVERRIDES)
    return settings, stage.run(settings)


def test_training_learns_and_says_how(undisturbed: tuple[Settings, dict]) -> None:
    settings, summary = undisturbed
    assert summary["steps"] == STEPS
    assert (summary["ranks"], summary["zero_stage"], summary["precision"]) == (2, 3, "float32")
    assert summary["steps_skipped"] == 0
    assert summary["train_loss_last"] < summary["train_loss_first"]
    assert summary["val_loss_last"] < summary["val_loss_first"]
    assert 0.95 < summary["useful_token_share"] < 1
    assert storage.read_json(settings.path("summaries", "train.json")) == summary
    rows = log.read(settings.path("train", "metrics"))
    tokens = [row["tokens"] for row in rows if "tokens" in row]
    room = settings.feed.packs_per_step * settings.feed.token_budget
    assert summary["pack_fill"] == pytest.approx(sum(tokens) / (len(tokens) * room))
    assert 0.5 < summary["pack_fill"] < 1
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 15, 30]


def test_the_model_is_published_with_its_card(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    model, card = load_model(settings.path("model"))
    assert (card.step, card.channels, card.text_dim) == (STEPS, CHANNELS, TEXT_DIM)
    assert any(p.abs().max() > 0 for p in [model.out.weight])  # it begins at zero


def test_the_first_held_out_loss_is_that_of_one_rank_with_another_seed(
    undisturbed: tuple[Settings, dict],
) -> None:
    settings, _ = undisturbed
    other = make_run(settings.run.folder, ["run.seed=5"])
    torch.manual_seed(5)
    expected = held_out_losses(other, plan_job(other).card.build())
    rows = [row for row in log.read(settings.path("train", "metrics")) if "val_loss" in row]
    assert rows[0]["val_loss_by_level"] == pytest.approx(list(expected), rel=1e-5)
    assert rows[0]["val_loss"] == pytest.approx(expected.mean(), rel=1e-5)


def test_running_again_trains_nothing_twice_and_says_where_the_results_are(
    undisturbed: tuple[Settings, dict], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = undisturbed
    before = losses(settings)
    assert stage.run(settings)["steps"] == STEPS
    assert losses(settings) == before
    said = capsys.readouterr().out
    assert f"the model is in {settings.path('model')}" in said
    assert f"the log of its steps in {settings.path('train', 'metrics')}" in said


def test_other_settings_do_not_go_on_from_a_checkpoint(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    other = settings.model_copy(update={"run": settings.run.model_copy(update={"seed": 99})})
    with pytest.raises(ValueError, match=r"run\.seed: 0 before, 99 now"):
        stage.run(other)


def test_another_precision_than_the_checkpoints_is_refused(undisturbed: tuple[Settings, dict]) -> None:
    settings, _ = undisturbed
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"precision": "bf16"})})
    with pytest.raises(Mistake, match="precision: checkpoint 'float32', settings 'bf16'"):
        stage.run(other)


def test_a_run_continues_in_its_precision_and_skips_a_sample_that_is_not_finite(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the precision that this machine would not choose by itself."""
    other = "float32" if inspect(torch.device("cpu")).precision == "bf16" else "bf16"
    one_rank = ["train.steps=3", "train.ranks=1", f"train.precision={other}"]
    begun = make_run(str(tmp_path), one_rank, not_finite={3})
    stage.run(begun)
    assert (
        f"computes in {other}, as train.precision asks, though this processor has" in capsys.readouterr().out
    )
    train = begun.train.model_copy(update={"steps": 6, "ranks": 2, "precision": "auto"})
    settings = begun.model_copy(update={"train": train})
    summary = stage.run(settings)
    printed = capsys.readouterr().out
    assert printed.count(f"computes in {other}, like the checkpoint it continues, though this") == 1
    assert summary["precision"] == other
    model, card = load_model(settings.path("model"))
    assert (card.precision, card.step) == (other, 6)
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    assert 0 < summary["steps_skipped"] < 6
    noted = storage.list_files(settings.path("train", "not_finite"))
    assert len(noted) == summary["steps_skipped"]
    for file in [*noted, settings.path("summaries", "train.json")]:
        assert json.loads(storage.read_bytes(file), parse_constant=pytest.fail)
    for file in storage.list_files(settings.path("train", "metrics")):
        for line in storage.read_bytes(file).splitlines():
            assert json.loads(line, parse_constant=pytest.fail)


def test_a_run_of_nothing_but_nan_ends_with_an_error_and_publishes_nothing(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    settings = make_run(str(tmp_path), OVERRIDES, not_finite=range(24))
    with pytest.raises(Mistake, match=r"3 steps in a row was not finite \(steps 0 to 2\)"):
        stage.run(settings)
    assert not storage.exists(settings.path("model"))
    assert not storage.exists(settings.path("summaries", "train.json"))
    noted = [storage.read_json(file) for file in storage.list_files(settings.path("train", "not_finite"))]
    assert [note["step"] for note in noted] == [0, 1, 2]
    assert all(len(note["packs"]) == settings.feed.packs_per_step for note in noted)


def test_a_killed_worker_changes_no_loss_to_the_last_bit(
    undisturbed: tuple[Settings, dict], tmp_path: Path
) -> None:
    settings = make_run(str(tmp_path), [*OVERRIDES, "train.max_failures=1"])
    with Killer([partial(wait_for_checkpoint, settings)]) as killer:
        stage.run(settings)
    assert FIRST_RESUMED <= went_on_at(settings, killer) < STEPS
    assert losses(settings) == losses(undisturbed[0])


def test_adapters_with_a_killed_worker_take_the_steps_of_one_process(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
    alone: Ranks,
) -> None:
    layout(CHANNELS, TEXT_DIM, depth=2, width=64, heads=4, ffn=80).theirs().save_pretrained(
        tmp_path / "start"
    )
    adapters = [
        *("model.depth=12", "model.width=768", "model.heads=12", "model.lora.rank=4"),
        *(f"model.start_from={tmp_path / 'start'}", "train.activation_checkpointing=true"),
    ]
    settings = make_run(str(tmp_path / "killed"), [*OVERRIDES, *adapters, "train.max_failures=1"])
    with Killer([partial(wait_for_checkpoint, settings)]) as killer:
        summary = stage.run(settings)
    assert FIRST_RESUMED <= went_on_at(settings, killer) < STEPS
    engine, feed = begin(make_run(str(tmp_path / "alone"), [*OVERRIDES, *adapters]), alone)
    expected = [take_step(engine, alone, step).row["loss"] for step in feed.steps(Position(), STEPS)]
    assert losses(settings) == pytest.approx(expected, rel=RANKS_TOLERANCE)
    assert summary["n_trained_parameters"] < summary["n_parameters"] / 4
    held = load_file(Path(settings.path("model", "model.safetensors")))
    assert sum(tensor.numel() for tensor in held.values()) == summary["n_trained_parameters"]
    model, _ = load_model(settings.path("model"))
    start = load_file(tmp_path / "start" / "diffusion_pytorch_model.safetensors")
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == {name.replace(".lora.A", ".weight") for name in held if name.endswith("A")}


@pytest.mark.nightly
def test_one_rank_goes_on_where_two_were(undisturbed: tuple[Settings, dict], tmp_path: Path) -> None:
    """Two ranks lose one and give up; one trains the rest."""
    settings = make_run(str(tmp_path), [*OVERRIDES, "train.max_failures=0"])
    with Killer([partial(wait_for_checkpoint, settings)]) as killer, pytest.raises(TrainingFailedError):
        stage.run(settings)
    assert stage.run(make_run(str(tmp_path), [*OVERRIDES, "train.ranks=1"]))["ranks"] == 1
    first = went_on_at(settings, killer)
    assert FIRST_RESUMED <= first < STEPS
    found, wanted = losses(settings), losses(undisturbed[0])
    assert found[:first] == wanted[:first]
    assert found[first:] == pytest.approx(wanted[first:], rel=RANKS_TOLERANCE)


@pytest.mark.nightly
def test_workers_killed_at_any_moment_change_no_loss_to_the_last_bit(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    steps = 160  # with 2 s a checkpoint 64 s: more than four kills leave for steps, each after a start
    overrides = [*OVERRIDES, f"train.steps={steps}", "train.max_failures=20"]
    whole = make_run(str(tmp_path / "whole"), overrides)
    stage.run(whole)
    delays = [random.uniform(0, 20) for _ in range(4)]  # a start takes 6 to 12 s
    settings = make_run(str(tmp_path / "killed"), overrides)
    with Killer([partial(time.sleep, delay) for delay in delays]) as killer:
        stage.run(settings)
    assert len(killer.killed_at) == len(delays), f"the run ended before the kills, {delays} s apart"
    assert losses(settings, steps) == losses(whole, steps), f"killed {delays} s apart"


def wait_for_checkpoint(settings: Settings) -> None:
    """Until Ray Train has registered a checkpoint at FIRST_RESUMED or later, and later steps are running."""
    snapshot = Path(settings.path("train", "checkpoints", "checkpoint_manager_snapshot.json"))
    registered = step = 0
    while registered < FIRST_RESUMED or step <= FIRST_RESUMED:
        time.sleep(0.05)
        found = re.findall(r"step-(\d+)", snapshot.read_text()) if snapshot.exists() else []
        registered = max(map(int, found), default=0)
        step = (log.last_row(settings.path("train", "metrics")) or {"step": 0})["step"]


def went_on_at(settings: Settings, killer: "Killer") -> int:
    """The first step whose log was written after the kill; those before it stand as they were."""
    files = sorted(Path(settings.path("train", "metrics")).iterdir())
    return min(int(file.stem) for file in files if file.stat().st_mtime > killer.killed_at[0])


class Killer(threading.Thread):
    """Kills a training worker with SIGKILL whenever the next of `waits` returns, until the block ends."""

    def __init__(self, waits: Iterable[Callable[[], None]]) -> None:
        super().__init__(daemon=True)
        self._waits, self._ended = waits, threading.Event()
        self.killed_at: list[float] = []

    def run(self) -> None:
        for wait in self._waits:
            wait()
            while not self._ended.is_set() and not (workers := _workers()):
                time.sleep(0.05)
            if self._ended.is_set():
                return
            random.choice(workers).kill()
            self.killed_at.append(time.time())

    def __enter__(self) -> "Killer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()


def _workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended since
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found
