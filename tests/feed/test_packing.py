"""Packs hold every sample once, keep the budget, and are equal in cost."""

import time

import numpy as np
import pytest

from vitascope.feed.packing import pack, water_level


def costs_of(tokens: np.ndarray) -> np.ndarray:
    """Attention outweighs the rest from 20,000 tokens on."""
    return tokens + tokens**2 / 20_000


def mixed(n: int, seed: int = 0) -> np.ndarray:
    """Tokens of images and of videos up to 118,800, largest first."""
    rng = np.random.default_rng(seed)
    frames = rng.choice([1, 1, 3, 5, 9, 17, 33], n)
    return np.sort(frames * rng.choice([256, 920, 1590, 3600], n))[::-1]


def packed(tokens: np.ndarray, shape: tuple[int, int], token_budget: int) -> np.ndarray | None:
    """The packs of samples in steps that hold nothing yet."""
    empty = np.zeros(shape)
    return pack(tokens, costs_of(tokens), held=empty, spent=empty, token_budget=token_budget)


def loads(packs: np.ndarray, weights: np.ndarray, n_steps: int) -> np.ndarray:
    """(n_steps, 16) sums of `weights` by pack."""
    return np.bincount(packs, weights, n_steps * 16).reshape(n_steps, 16)


def test_packs_are_equal_in_cost_and_nearly_full() -> None:
    tokens = mixed(8000)
    budget = 1 << 19
    n_steps = int(np.ceil(tokens.sum() / (0.98 * 16 * budget)))
    packs = packed(tokens, (n_steps, 16), budget)
    assert packs is not None
    assert packs.shape == tokens.shape
    held, spent = loads(packs, tokens, n_steps), loads(packs, costs_of(tokens), n_steps)
    assert held.max() <= budget
    assert (spent.max(axis=1) / spent.mean(axis=1)).max() < 1.01
    assert held.mean() > 0.9 * held.max()


def test_every_step_has_the_mix_of_the_whole() -> None:
    tokens = mixed(8000)
    packs = packed(tokens, (10, 16), 1 << 30)
    assert packs is not None
    sizes, kind = np.unique(tokens, return_inverse=True)
    held = np.bincount(packs // 16 * len(sizes) + kind, tokens, 10 * len(sizes)).reshape(10, -1)
    shares = held / held.sum(axis=1, keepdims=True)
    assert np.abs(shares - held.sum(axis=0) / held.sum()).max() < 0.01, "of a step's tokens, in any size"


@pytest.mark.parametrize("seed", range(30))
def test_any_sizes_keep_the_budget_or_do_not_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.sort(rng.integers(1, rng.integers(2, 1001), rng.integers(1, 400)))[::-1]
    packs_per_step, n_steps = int(rng.integers(1, 20)), int(rng.integers(1, 10))
    packs = packed(tokens, (n_steps, packs_per_step), 1000)
    if packs is None:
        assert len(tokens) > n_steps * packs_per_step, "there is a pack for each sample"
        return
    held = np.bincount(packs, tokens, n_steps * packs_per_step)
    assert len(packs) == len(tokens)
    assert len(held) == n_steps * packs_per_step
    assert held.max() <= 1000


def test_what_does_not_fit_is_refused() -> None:
    tokens = np.full(9, 60)
    assert packed(tokens, (2, 4), 100) is None
    assert packed(tokens, (3, 4), 100) is not None


def test_what_packs_hold_already_counts() -> None:
    tokens = np.full(12, 10)
    held = np.array([[40.0, 40.0], [0.0, 0.0]])
    packs = pack(tokens, 1.0 * tokens, held=held, spent=held, token_budget=100)
    assert packs is not None
    assert (np.bincount(packs, tokens, 4).reshape(2, 2) + held).tolist() == [[50, 50], [50, 50]]
    full = np.array([[100.0, 100.0]])
    assert pack(tokens, 1.0 * tokens, held=full, spent=full, token_budget=100) is None


def test_small_samples_take_few_rounds() -> None:
    """A round of Python for each sample of a pack took 36 s for 200,000 samples of one token."""
    tokens = np.ones(200_000, np.int32)
    started = time.process_time()
    packs = packed(tokens, (2, 8), 16_384)
    assert time.process_time() - started < 4, "0.1 s on a quiet machine"
    assert packs is not None
    assert np.ptp(np.bincount(packs)) <= 16_384 // 100


def test_water_levels() -> None:
    assert water_level(np.array([1.0, 2.0, 9.0]), 3.0) == 3.0
    assert water_level(np.array([1.0, 2.0, 9.0]), 0.5) == 1.5
    assert water_level(np.array([1.0, 2.0]), 6.0, empty=3) == 1.75
    assert water_level(np.array([]), 6.0, empty=4) == 1.5
