"""Packs hold every sample once, keep the budget, and are equal in cost."""

import numpy as np
import pytest

from vitascope.feed.packing import equal_cost_budget, pack


def costs_of(tokens: np.ndarray) -> np.ndarray:
    """Attention outweighs the rest from 20,000 tokens on."""
    return tokens + tokens**2 / 20_000


def mixed(n: int, seed: int = 0) -> np.ndarray:
    """Tokens of images and of videos up to 118,800, largest first."""
    rng = np.random.default_rng(seed)
    frames = rng.choice([1, 1, 3, 5, 9, 17, 33], n)
    return np.sort(frames * rng.choice([256, 920, 1590, 3600], n))[::-1]


def loads(packs: np.ndarray, weights: np.ndarray, n_steps: int) -> np.ndarray:
    """(n_steps, 16) sums of `weights` by pack."""
    return np.bincount(packs, weights, n_steps * 16).reshape(n_steps, 16)


def test_packs_are_equal_in_cost_and_nearly_full() -> None:
    tokens = mixed(8000)
    budget = 1 << 19
    n_steps = int(np.ceil(tokens.sum() / (0.98 * 16 * budget)))
    packs = pack(tokens, costs_of(tokens), n_steps=n_steps, packs_per_step=16, token_budget=budget)
    assert packs is not None
    assert packs.shape == tokens.shape
    held, spent = loads(packs, tokens, n_steps), loads(packs, costs_of(tokens), n_steps)
    assert held.max() <= budget
    assert (spent.max(axis=1) / spent.mean(axis=1)).max() < 1.01
    assert held.mean() > 0.9 * held.max()


def test_every_step_has_the_mix_of_the_whole() -> None:
    tokens = mixed(8000)
    packs = pack(tokens, costs_of(tokens), n_steps=10, packs_per_step=16, token_budget=1 << 30)
    assert packs is not None
    for size in np.unique(tokens):
        of_size = np.bincount(packs[tokens == size] // 16, minlength=10)
        assert np.ptp(of_size) <= 4, f"samples of {size} tokens per step: {of_size}"


@pytest.mark.parametrize("seed", range(30))
def test_any_sizes_keep_the_budget_or_do_not_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.sort(rng.integers(1, rng.integers(2, 1001), rng.integers(1, 400)))[::-1]
    packs_per_step, n_steps = int(rng.integers(1, 20)), int(rng.integers(1, 10))
    packs = pack(tokens, costs_of(tokens), n_steps=n_steps, packs_per_step=packs_per_step, token_budget=1000)
    if packs is None:
        assert len(tokens) > n_steps * packs_per_step, "there is a pack for each sample"
        return
    held = np.bincount(packs, tokens, n_steps * packs_per_step)
    assert len(packs) == len(tokens)
    assert len(held) == n_steps * packs_per_step
    assert held.max() <= 1000


def test_what_does_not_fit_is_refused() -> None:
    tokens = np.full(9, 60)
    assert pack(tokens, 1.0 * tokens, n_steps=2, packs_per_step=4, token_budget=100) is None
    assert pack(tokens, 1.0 * tokens, n_steps=3, packs_per_step=4, token_budget=100) is not None


def test_budget_for_equal_cost() -> None:
    tokens = mixed(8000)
    least = equal_cost_budget(tokens, costs_of(tokens))
    mean_cost_per_token = costs_of(tokens).sum() / tokens.sum()
    assert least * mean_cost_per_token > costs_of(tokens).max(), "a mean pack outweighs the costliest sample"
    assert equal_cost_budget(np.full(5, 70), np.full(5, 140.0)) == 70, (
        "alike samples need no more than one's room"
    )
