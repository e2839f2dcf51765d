"""The cost model counts what the network multiplies."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vitascope.feed.packs import Segment, collate
from vitascope.model.dit import DiT
from vitascope.model.networks import build, cost_of
from vitascope.model.settings import ModelSettings


@pytest.mark.parametrize(("grid", "n_text"), [((1, 8, 8), 20), ((8, 12, 12), 5)])
def test_cost_is_what_torch_counts(grid: tuple[int, int, int], n_text: int) -> None:
    settings = ModelSettings(depth=3, width=64, heads=4)
    n = grid[0] * grid[1] * grid[2]
    pack = collate([Segment(torch.randn(n, 16), grid, torch.rand(grid[0]), torch.randn(n_text, 24))])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        DiT(settings, 4, 24)(pack)
    # The learned text token and the modulation of each frame are left out of the model: a few per cent here.
    assert cost_of(settings, 4, 24).of(n, n_text) == pytest.approx(counter.get_total_flops(), rel=0.06)


@pytest.mark.parametrize("grid", [(1, 8, 8), (8, 12, 12)])
def test_cost_of_wan_is_what_torch_counts(grid: tuple[int, int, int]) -> None:
    settings = ModelSettings(network="wan", depth=3, width=96, heads=4, ffn=250)
    n = grid[0] * grid[1] * grid[2]
    pack = collate([Segment(torch.randn(n, 16), grid, torch.rand(grid[0]), torch.randn(511, 24))])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        build(settings, 4, 24)(pack)
    # With one pad, a CPU computes as many keys as a GPU. Left out: the embedding of each frame's timestep.
    assert cost_of(settings, 4, 24).of(n, 511) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert cost_of(settings, 4, 24).of(n, 0) > 0.5 * cost_of(settings, 4, 24).of(n, 511)


def test_cost_works_on_arrays() -> None:
    cost = cost_of(ModelSettings(), 16, 384)
    tokens, text = np.array([1, 1000, 100_000]), np.array([0, 10, 200])
    assert np.array_equal(
        cost.of(tokens, text), [cost.of(int(n), int(m)) for n, m in zip(tokens, text, strict=True)]
    )
    assert cost.of(100_000, 0) > 100 * cost.of(1000, 0)  # attention is quadratic
