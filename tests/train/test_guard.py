"""Values that are not finite change nothing, are recorded, and end a run that cannot recover."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from alone import begin
from synthetic import make_run
from vitascope import storage
from vitascope.feed.plan import Position
from vitascope.feed.source import load_pack
from vitascope.model import flow
from vitascope.train import guard
from vitascope.train.engine import Engine, Ranks
from vitascope.train.guard import Guard
from vitascope.train.settings import NOT_FINITE_IN_A_ROW, TrainSettings
from vitascope.train.stage import plan_job
from vitascope.train.step import SkippedPack, Taken, take_step

NAN = math.nan
LR = ["train.warmup_steps=3", "train.steps=6"]


class Spoiled(torch.autograd.Function):
    """The same value, with a gradient that is not finite."""

    @staticmethod
    def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, *grads: torch.Tensor) -> Any:
        return grads[0] * NAN


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Passes the losses of the packs with these numbers through `bad`."""
    right = flow.loss

    def make(packs: set[int], bad: Any) -> None:
        calls = iter(range(1000))

        def loss(model: Any, pack: Any) -> torch.Tensor:
            value = right(model, pack)
            return bad(value) if next(calls) in packs else value

        monkeypatch.setattr(flow, "loss", loss)

    return make


def state(engine: Engine) -> list[torch.Tensor]:
    """Weights, moments and averages."""
    parts = [part for *_, parts in engine._parts() for part in parts.values()]
    return [part.clone() for part in parts]


@pytest.mark.parametrize(
    "bad",
    [
        lambda value: value * NAN,
        lambda value: value * math.inf,
        lambda value: value + NAN,  # the gradient is finite all the same
        lambda value: Spoiled.apply(value),  # and here the loss is
    ],
)
def test_a_skipped_step_leaves_everything_as_if_it_had_not_been(
    alone: Ranks, tmp_path: Path, spoil: Any, bad: Any
) -> None:
    engine, feed = begin(make_run(str(tmp_path), LR), alone)
    steps = feed.steps(Position(), 4)
    spoil({2 * feed.passes + 1}, bad)  # the second pack of the third step
    first = [take_step(engine, alone, next(steps)).row for _ in range(2)]
    before = state(engine)
    skipped = take_step(engine, alone, next(steps))
    assert all(map(torch.equal, state(engine), before))
    assert (skipped.row["not_finite"], engine.step_number, engine.updates) == (1, 3, 2)
    assert json.loads(storage.json_lines([skipped.row]))["step"] == 2
    after = take_step(engine, alone, next(steps)).row
    assert after["lr"] == skipped.row["lr"] > first[-1]["lr"]  # still in the warm-up, one step on
    assert after["not_finite"] == 0
    assert not all(map(torch.equal, state(engine), before))


def test_what_follows_is_as_without_the_skipped_step(alone: Ranks, tmp_path: Path, spoil: Any) -> None:
    """Also through a checkpoint, which has to record the number of updates."""
    settings = make_run(str(tmp_path / "run"), LR)
    plain, feed = begin(settings, alone)
    for number, step in enumerate(feed.steps(Position(), 4)):
        if number == 1:
            list(step.packs)  # passed over
        else:
            take_step(plain, alone, step)
    spoil({feed.passes}, lambda value: value * NAN)
    engine, feed = begin(settings, alone)
    after = Position()
    for step in feed.steps(Position(), 3):
        take_step(engine, alone, step)
        after = step.after
    again, feed = begin(settings, alone)
    again.load(tmp_path, engine.save(tmp_path))
    for step in feed.steps(after, 1):
        take_step(again, alone, step)
    assert all(map(torch.equal, state(again), state(plain)))


def test_samples_of_a_skipped_step_are_written_down(alone: Ranks, tmp_path: Path, spoil: Any) -> None:
    settings = make_run(str(tmp_path), LR)
    engine, feed = begin(settings, alone)
    job = plan_job(settings)
    source, look = job.source("train", job.draws), Guard(job.not_finite, settings.train, alone, 0)
    spoil({feed.passes + 1}, lambda value: value * NAN)
    ids = []
    for step in feed.steps(Position(), 2):
        packs = [load_pack(source, step.position, number) for number in range(len(step.plan.packs))]
        ids.append([pack.sample_ids.tolist() for pack in packs])
        assert look.after_step(take_step(engine, alone, step), engine) is None
    (file,) = storage.list_files(job.not_finite)
    noted = storage.read_json(file)
    assert (noted["step"], noted["loss"]) == (1, None)
    assert sorted(pack["sample_ids"] for pack in noted["packs"]) == sorted(ids[1])
    assert [pack["loss"] is None for pack in noted["packs"]].count(True) == 1


def taken(step: int, not_finite: bool) -> Taken:
    row = {"step": step, "epoch": 0, "loss": None, "grad_norm": None, "not_finite": float(not_finite)}
    return Taken(row, [SkippedPack(None, [step])])


class Weights:
    """An engine whose weights are finite, or not."""

    def __init__(self, finite: bool) -> None:
        self.is_finite, self.step_number = (lambda: finite), 7


@pytest.mark.parametrize(("how", "ends"), [("stop", True), ("skip", False)])
def test_several_steps_in_a_row_end_the_run_and_single_ones_do_not(
    alone: Ranks, tmp_path: Path, how: str, ends: bool
) -> None:
    look = Guard(str(tmp_path), TrainSettings(on_not_finite=how), alone, 0)
    engine: Any = Weights(finite=True)
    singles = [look.after_step(taken(n, bool(n % NOT_FINITE_IN_A_ROW)), engine) for n in range(31)]
    assert singles == [None] * 31
    row = [look.after_step(taken(n, True), engine) for n in range(31, 31 + NOT_FINITE_IN_A_ROW)]
    assert row[:-1] == [None] * (NOT_FINITE_IN_A_ROW - 1)
    assert (row[-1] is not None) == ends
    assert not ends or "steps 31 to 33" in str(row[-1])


@pytest.mark.parametrize("how", ["stop", "skip"])
def test_weights_that_are_not_finite_end_the_run_at_once(alone: Ranks, tmp_path: Path, how: str) -> None:
    look = Guard(str(tmp_path), TrainSettings(on_not_finite=how), alone, 0)
    engine: Any = Weights(finite=False)
    assert "the weights are no longer finite after 7 steps" in str(look.after_step(taken(6, True), engine))
    assert look.weights(engine) is not None


def test_what_is_written_down_is_bounded_and_of_the_steps_that_count(
    alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_NOTED", 4)
    folder, engine = str(tmp_path / "noted"), Weights(finite=True)

    def noted(start: int, steps: range) -> list[int]:
        look = Guard(folder, TrainSettings(on_not_finite="skip"), alone, start)
        for step in steps:
            look.after_step(taken(step, True), engine)  # type: ignore[arg-type]
        return [storage.read_json(file)["step"] for file in storage.list_files(folder)]

    assert noted(0, range(6)) == [0, 1, 2, 3]
    assert noted(2, range(0)) == [0, 1]  # from a checkpoint on, with another learning rate
    assert noted(2, range(3, 5)) == [0, 1, 3, 4]
