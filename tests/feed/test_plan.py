"""The plan: every sample once an epoch, the same from anywhere, on any number of ranks."""

import pickle
from itertools import islice

import numpy as np
import pytest

from vitascope.feed.lengths import Lengths
from vitascope.feed.plan import (
    NO_PACK,
    START,
    Planner,
    Position,
    StepPlan,
    cost_spread,
    ranks_advice,
    ranks_share,
)

SIZES = np.outer([1, 3, 5, 9, 17, 33], [256, 920, 1590, 3600]).reshape(-1)


def lengths_of(tokens: np.ndarray, samples_per_shard: int = 20) -> Lengths:
    n = len(tokens)
    return Lengths(
        shard=np.arange(n) // samples_per_shard,
        tokens=tokens,
        costs=tokens + tokens**2 / 20_000,
    )


def mixed(n: int, seed: int = 0) -> Lengths:
    """Images and videos up to 118,800 tokens."""
    rng = np.random.default_rng(seed)
    return lengths_of(np.where(rng.random(n) < 0.5, rng.choice(SIZES[:4], n), rng.choice(SIZES, n)))


def planner_of(lengths: Lengths, **changes: int) -> Planner:
    settings = {"seed": 7, "token_budget": 1 << 19, "packs_per_step": 8, "window_samples": 1000} | changes
    return Planner(lengths, **settings)


def epoch_of(planner: Planner, epoch: int) -> list[StepPlan]:
    return [step for _, step in islice(planner.walk(Position(epoch)), planner.steps_in_epoch(epoch))]


def samples_of(steps: list[StepPlan]) -> np.ndarray:
    return np.concatenate([samples for step in steps for samples in step.packs])


def assert_same(one: StepPlan, other: StepPlan) -> None:
    assert len(one.packs) == len(other.packs)
    assert all(np.array_equal(a, b) for a, b in zip(one.packs, other.packs, strict=True))


@pytest.mark.parametrize("seed", range(25))
def test_every_sample_exactly_once_and_within_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, rng.integers(2, 5000), rng.integers(1, 3000))
    planner = planner_of(
        lengths_of(tokens, int(rng.integers(1, 100))),
        token_budget=int(rng.integers(5000, 40_000)),
        packs_per_step=int(rng.integers(1, 17)),
        window_samples=int(rng.integers(1, 2000)),
    )
    steps = epoch_of(planner, int(rng.integers(0, 5)))
    assert np.array_equal(np.sort(samples_of(steps)), np.arange(len(tokens)))
    for step in steps:
        assert len(step.packs) == planner.packs_per_step
        assert [tokens[samples].sum() for samples in step.packs] == step.tokens.tolist()
        assert np.allclose([planner.lengths.costs[samples].sum() for samples in step.packs], step.costs)
        assert step.tokens.max() <= planner.token_budget
        assert (np.diff(step.costs) <= 0).all(), "the costliest pack comes first"


def test_packs_of_a_step_are_equal_in_cost_and_nearly_full() -> None:
    steps = epoch_of(planner_of(mixed(12_000), window_samples=4000), 0)
    assert max(cost_spread(step.costs) for step in steps) < 0.01
    assert np.mean([step.tokens for step in steps]) > 0.93 * (1 << 19)


def test_same_inputs_same_plan_in_any_process() -> None:
    planner = planner_of(mixed(3000))
    for one, other in zip(
        epoch_of(planner, 2), epoch_of(pickle.loads(pickle.dumps(planner)), 2), strict=True
    ):
        assert_same(one, other)


def test_the_plan_is_the_one_it_always_was() -> None:
    """Runs resume by number: a change of these packs makes every checkpoint resume into other samples."""
    planner = planner_of(lengths_of(np.arange(1, 25) * 10), token_budget=400, packs_per_step=3)
    step = planner.step(Position(3, 0, 1))
    assert [sorted(samples.tolist()) for samples in step.packs] == [[12, 21], [10, 22], [7, 23]]


@pytest.mark.parametrize(
    "tokens", [mixed(200).tokens, np.arange(1, 201) * 500], ids=["classes", "all distinct"]
)
def test_other_seed_or_epoch_other_steps(tokens: np.ndarray) -> None:
    lengths = lengths_of(tokens)
    plans = [(1, 0), (1, 1), (2, 0)]
    steps = [planner_of(lengths, seed=s, packs_per_step=2).step(Position(e)) for s, e in plans]
    together = [frozenset(np.concatenate(step.packs).tolist()) for step in steps]
    assert len(set(together)) == 3, "which samples meet in a step changes too, not the order alone"


def test_resume_from_any_step_is_the_tail() -> None:
    planner = planner_of(mixed(2500), packs_per_step=4)
    whole = list(islice(planner.walk(), planner.steps_in_epoch(0) + planner.steps_in_epoch(1) + 2))
    assert planner.windows(0) > 1
    assert whole[-1][0].epoch == 2
    for n, (position, _) in enumerate(whole):
        again = planner_of(planner.lengths, packs_per_step=4)  # nothing remembered
        for (p, one), (q, other) in zip(whole[n : n + 3], again.walk(position), strict=False):
            assert p == q
            assert_same(one, other)


def test_windows_bound_what_is_planned_together() -> None:
    lengths = mixed(20_000)
    planner = planner_of(lengths, window_samples=2000, packs_per_step=4)
    sizes = [len(planner.window(0, number).samples) for number in range(planner.windows(0))]
    assert sum(sizes) == 20_000
    assert max(sizes) < 2600
    one = planner.window(0, 3).samples
    assert len(np.unique(lengths.shard[one])) <= len(one) / 20 + 2, "a window reads its own shards"


def test_a_thousand_ranks() -> None:
    lengths = mixed(60_000)
    planner = planner_of(lengths, packs_per_step=1024, window_samples=1 << 17)
    step = planner.step(START)
    shares = [ranks_share(1024, 1024, rank) for rank in range(1024)]
    assert sorted(number for share in shares for number in share) == list(range(1024))
    assert cost_spread(step.costs[np.concatenate(shares)]) < 0.01


def test_windows_hold_whole_steps() -> None:
    """A window of 2.1 steps would need 3: large steps in small windows are still full."""
    planner = planner_of(mixed(40_000), packs_per_step=64, window_samples=5000)
    steps = epoch_of(planner, 0)
    fill = mixed(40_000).tokens.sum() / (len(steps) * 64 * planner.token_budget)
    assert fill > 0.85


def test_ranks_share_all_packs_with_as_many_passes_each() -> None:
    for n_packs in range(1, 20):
        for world_size in range(1, 9):
            shares = [ranks_share(n_packs, world_size, rank) for rank in range(world_size)]
            assert {len(share) for share in shares} == {-(-n_packs // world_size)}
            numbers = [number for share in shares for number in share if number != NO_PACK]
            assert sorted(numbers) == list(range(n_packs))
    with pytest.raises(ValueError, match="rank must be between 0 and 3, got 4"):
        ranks_share(8, 4, 4)


def test_steps_keep_the_mix_of_sizes_better_than_chance() -> None:
    lengths = mixed(12_000)
    steps = epoch_of(planner_of(lengths, window_samples=4000), 0)
    order = np.random.default_rng(0).permutation(12_000)
    planned = [np.concatenate(step.packs) for step in steps]
    assert divergence(lengths, planned) < 0.5 * divergence(lengths, np.array_split(order, len(steps)))


def divergence(lengths: Lengths, steps: list[np.ndarray]) -> float:
    """Mean total-variation distance of the steps' tokens by size from the epoch's."""
    sizes, of_size = np.unique(lengths.tokens, return_inverse=True)
    epoch = np.bincount(of_size, lengths.tokens) / lengths.tokens.sum()
    shares = [np.bincount(of_size[s], lengths.tokens[s], len(sizes)) / lengths.tokens[s].sum() for s in steps]
    return float(np.mean([0.5 * np.abs(share - epoch).sum() for share in shares]))


@pytest.mark.parametrize("packs_per_step", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_tiny_data(n: int, packs_per_step: int) -> None:
    planner = planner_of(mixed(n), token_budget=200_000, packs_per_step=packs_per_step)
    steps = epoch_of(planner, 0)
    assert np.array_equal(np.sort(samples_of(steps)), np.arange(n))
    assert planner.windows(0) == 1


def test_empty_packs_where_samples_are_fewer() -> None:
    step = planner_of(mixed(3), packs_per_step=8).step(START)
    assert [len(samples) for samples in step.packs] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert step.tokens[3:].tolist() == step.costs[3:].tolist() == [0] * 5


def test_ranks_that_will_wait_are_announced_with_the_cause() -> None:
    lengths = lengths_of(np.append(np.full(2000, 256), 100_000))
    planner = planner_of(lengths, token_budget=100_000)
    assert np.array_equal(np.sort(samples_of(epoch_of(planner, 0))), np.arange(2001))
    costs = planner.window(0, 0).costs
    waits = 1 - costs.mean(axis=1).sum() / costs.max(axis=1).sum()
    assert f"ranks will wait {waits:.0%} of the time" in str(planner.advice())
    assert "of 100000 tokens" in str(planner.advice())
    assert planner_of(mixed(12_000), window_samples=4000).advice() is None
    assert planner_of(lengths, token_budget=100_000, packs_per_step=1).advice() is None


def test_ranks_that_do_not_divide_the_packs_are_told_which_numbers_do() -> None:
    advice = str(ranks_advice(64, 48))
    assert "idle 33% of the time" in advice
    assert "feed.packs_per_step to 48 or 96, or train.ranks to 32 or 64" in advice
    assert "feed.packs_per_step to 16, or train.ranks to 8" in str(ranks_advice(8, 16))
    assert "feed.packs_per_step to 7 or 14, or train.ranks to 1 or 11" in str(ranks_advice(11, 7))
    for n_packs in range(1, 40):
        for world_size in range(1, 50):
            numbers = [n for r in range(world_size) for n in ranks_share(n_packs, world_size, r)]
            assert (ranks_advice(n_packs, world_size) is None) == (NO_PACK not in numbers)


def test_wrong_inputs_say_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"sample number 1 has 900 tokens, more than the budget of 800: set feed"
    ):
        planner_of(lengths_of(np.array([5, 900, 7])), token_budget=800)
    with pytest.raises(ValueError, match="packs_per_step must be 1 or more, got 0"):
        planner_of(mixed(5), packs_per_step=0)
    with pytest.raises(ValueError, match="the index is empty"):
        lengths_of(np.array([], np.int64))
    ones = np.ones(3, np.int64)
    with pytest.raises(ValueError, match="sort the index"):
        Lengths(np.array([1, 2, 1]), ones, ones.astype(np.float64))
    with pytest.raises(ValueError, match="vectors of one length"):
        Lengths(ones, ones[:2], ones.astype(np.float64))
    with pytest.raises(ValueError, match="costs must be finite"):
        Lengths(ones, ones, np.array([1.0, np.nan, 1.0]))
    planner = planner_of(mixed(50))
    with pytest.raises(ValueError, match="no window 5 in epoch 0: it has 1"):
        planner.window(0, 5)
    with pytest.raises(ValueError, match="no step 99"):
        planner.step(Position(0, 0, 99))
