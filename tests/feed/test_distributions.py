"""No distribution of lengths multiplies the steps or leaves ranks waiting, by the bench's bounds."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vitascope.feed.costly import best_fit, cost_limits, costly_packs
from vitascope.feed.lengths import Lengths
from vitascope.feed.plan import Planner, Position

BUDGET = 16_384


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """jobs/bench/plan.py, which knows the distributions and what is possible."""
    path = Path(__file__).parents[2] / "jobs" / "bench" / "plan.py"
    spec = importlib.util.spec_from_file_location("bench_plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_plan"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


NAMES = [
    "10,000 x 256 and one of 16,384",
    "256, one of 16,384 in 1,000",
    "256 (90 %) and 16,384",
    "1,024 (90 %) and 12,000",
    "Pareto 1.1 from 64, capped",
    "one shape a shard",
    "half the budget, 300 more or less",
    "uniform from 1 to the budget",
    "one token",
    "5 samples",
]


@pytest.mark.parametrize("width", [192, 3072])
@pytest.mark.parametrize("packs_per_step", [1, 2, 4, 8, 64])
@pytest.mark.parametrize("name", NAMES)
def test_steps_are_few_and_ranks_busy(bench: ModuleType, name: str, packs_per_step: int, width: int) -> None:
    args = Namespace(seed=3, hostile_width=width, window_samples=131_072)
    tokens = bench.hostile(30_000, 3)[name]
    row = bench.hostile_row(name, tokens, packs_per_step, args)  # asserts budget and exactly once
    assert row["over_fewest"] <= 1.05 + 1e-9
    if row["steps"] >= 20:  # with fewer, whole samples leave less choice than the bound supposes
        assert row["busy"] >= min(0.97, row["most_busy"] - 0.02)


def test_the_typical_mix_is_levelled_and_kept(bench: ModuleType) -> None:
    data = bench.draw(100_000, 0)
    lengths = bench.lengths_of(data, bench.cost_of(bench.MODEL, channels=16, text_dim=4096))
    planner = Planner(lengths, 0, 1 << 19, 64, 131_072)
    found = bench.metrics(bench.planned(planner, data), data, budget=1 << 19, seed=0)
    assert found["exactly_once"]
    assert found["cost_spread_p99"] < 0.001
    assert found["fill"] > 0.93
    assert found["step_mix_divergence_by_area"] < found["random_step_mix_divergence_by_area"] / 2


@pytest.mark.parametrize("low_and_high", [(0.25, 0.5), (0.1, 0.6), (0.4, 0.9), (0.34, 0.5)])
def test_samples_of_which_few_fit_a_pack(bench: ModuleType, low_and_high: tuple[float, float]) -> None:
    """Nothing small levels them: packs are filled best-fit, and those of like cost share a step."""
    tokens = (BUDGET * np.random.default_rng(1).uniform(*low_and_high, 8000)).astype(np.int64)
    for packs_per_step in (1, 8, 64):
        args = Namespace(seed=1, hostile_width=192, window_samples=131_072)
        row = bench.hostile_row("", tokens, packs_per_step, args)
        alone = int(best_fit(np.sort(tokens)[::-1], BUDGET).max()) + 1
        assert row["steps"] <= 1.05 * -(-alone // packs_per_step) + 1
        assert row["busy"] >= 0.98


def test_costly_samples_are_spread_over_windows_and_steps() -> None:
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random(60_000) < 0.001, BUDGET, 256).astype(np.int32)
    lengths = Lengths(np.arange(60_000) // 100, tokens, (tokens + tokens**2.0 / 2000).astype(np.float32))
    planner = Planner(lengths, 5, BUDGET, 4, 5000)
    assert planner.windows(0) > 8
    windows = [planner.window(0, number) for number in range(planner.windows(0))]
    giants = [tokens[window.samples] == BUDGET for window in windows]
    assert sum(found.sum() for found in giants) == (tokens == BUDGET).sum()
    steps_with = 0
    for window, found in zip(windows, giants, strict=True):
        step_of = np.repeat(np.arange(window.n_steps), np.diff(window.offsets[::4]))
        per_step = np.bincount(step_of[found], minlength=window.n_steps)
        assert set(per_step.tolist()) <= {0, (tokens == BUDGET).sum() % 4, 4}, (
            "they share steps, four by four"
        )
        steps_with += int((per_step > 0).any())
    assert steps_with >= min(len(windows), (tokens == BUDGET).sum() // 4) * 0.8, "in most windows"


@pytest.mark.parametrize("n", [3, 70, 1250])
@pytest.mark.parametrize("packs_per_step", [1, 2, 8])
def test_no_step_is_empty(n: int, packs_per_step: int) -> None:
    """One would be a step without a loss."""
    for tokens in (np.full(n, BUDGET), np.full(n, BUDGET * 49 // 50), np.full(n, BUDGET // 2 + 1)):
        lengths = Lengths(np.arange(n) // 16, tokens, 1.0 * tokens)
        planner = Planner(lengths, 0, BUDGET, packs_per_step, 50)
        steps = [planner.window(0, number).tokens.sum(axis=1) for number in range(planner.windows(0))]
        assert np.concatenate(steps).min() > 0


def test_windows_hold_whole_steps_however_small_they_are_asked_to_be() -> None:
    tokens = np.random.default_rng(0).integers(1, BUDGET, 30_000)
    lengths = Lengths(np.arange(30_000), tokens, 1.0 * tokens**2)
    for packs_per_step in (64, 1024):
        planner = Planner(lengths, 0, BUDGET, packs_per_step, 1)
        fewest = -(-tokens.sum() // (BUDGET * packs_per_step))
        assert planner.steps_in_epoch(0) <= 1.2 * fewest + 1


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int64, np.uint32])
def test_the_plan_does_not_depend_on_the_columns_types(kind: type) -> None:
    tokens = np.random.default_rng(0).integers(1, BUDGET, 3000)
    planners = [
        Planner(Lengths(np.arange(3000) // 9, tokens.astype(k), np.float32(tokens)), 0, BUDGET, 4, 900)
        for k in (np.int32, kind)
    ]
    one, other = (planner.window(0, 1) for planner in planners)
    assert np.array_equal(one.samples, other.samples)


def test_every_position_resumes_and_epochs_differ() -> None:
    rng = np.random.default_rng(2)
    tokens = np.minimum(BUDGET, 64 * (1 + rng.pareto(1.1, 6000))).astype(np.int32)
    lengths = Lengths(np.arange(6000) // 64, tokens, (tokens + tokens**2.0 / 2000).astype(np.float32))

    def planner() -> Planner:
        return Planner(lengths, 9, BUDGET, 2, 1500)

    one = planner()
    walk = one.walk()
    whole = [next(walk) for _ in range(one.steps_in_epoch(0) + 3)]
    for position, step in whole[:: max(1, len(whole) // 25)]:
        again = planner().step(position)
        assert all(np.array_equal(a, b) for a, b in zip(step.packs, again.packs, strict=True))
    other = one.step(Position(1))
    assert {*np.concatenate(other.packs)} != {*np.concatenate(whole[0][1].packs)}


def test_best_fit_keeps_the_budget_and_order() -> None:
    rng = np.random.default_rng(4)
    for budget in (7, 1000, 16_384, 1 << 20):
        tokens = np.sort(rng.integers(1, budget + 1, 3000))[::-1]
        packs = best_fit(tokens, budget)
        held = np.bincount(packs, tokens)
        assert held.max() <= budget
        assert (held > 0).all()
        assert len(held) <= 1.1 * -(-tokens.sum() // budget) + 1
    assert best_fit(np.full(9, 5461), 16_384).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2], "three thirds fit"


def test_packs_of_costly_samples_come_costliest_first() -> None:
    tokens = np.array([9000, 16_000, 4000, 7000])
    costs = tokens**2.0
    packs = costly_packs(tokens, costs, np.zeros(4), token_budget=BUDGET, alone=True)
    assert packs.tolist() == [1, 0, 3, 2]
    packs = costly_packs(tokens, costs, np.zeros(4), token_budget=BUDGET, alone=False)
    assert packs.tolist() == [1, 0, 2, 1]


def test_no_sample_is_costly_if_all_can_be_levelled() -> None:
    tokens = np.tile([256, 512, 1024], 5000)
    lengths = Lengths(np.arange(15_000) // 100, tokens, tokens + tokens**2 / 20_000)
    assert cost_limits(lengths, token_budget=1 << 17, packs_per_step=8)[0] >= lengths.costs.max()
    rare = np.append(tokens, 1 << 17)
    lengths = Lengths(np.arange(15_001) // 100, rare, rare + rare**2 / 20_000)
    (limit,) = cost_limits(lengths, token_budget=1 << 17, packs_per_step=8)
    assert lengths.costs[:-1].max() <= limit < lengths.costs[-1], "the one that outweighs a pack"
