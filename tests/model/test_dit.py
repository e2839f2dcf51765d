"""The model treats a pack as the samples it holds."""

import pytest
import torch

from vitascope.feed.packs import Pack, Segment, collate
from vitascope.model.dit import SMALLEST_TIMESTEP, DiT
from vitascope.model.settings import ModelSettings

CHANNELS, TEXT_DIM = 3, 16
GRIDS = [(1, 3, 5), (4, 2, 2), (2, 4, 3), (1, 1, 1)]
TOLERANCE = 1e-6 / SMALLEST_TIMESTEP
"""A sample alone runs through matrix products of other shapes, which sum in another order: float32 rounding
of values around 1, some layers deep, which the velocity divides by the noise level."""


def make_model() -> DiT:
    torch.manual_seed(0)
    model = DiT(ModelSettings(depth=3, width=64, heads=4), CHANNELS, TEXT_DIM).eval()
    for parameter in model.parameters():  # what starts at zero would hide a leak
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_segment(grid: tuple[int, int, int], n_text: int) -> Segment:
    """Noise levels are of all kinds, and every second of three frames is given."""
    n = grid[0] * grid[1] * grid[2]
    timesteps = torch.where(torch.arange(grid[0]) % 3 == 1, 0.0, torch.rand(grid[0]))
    return Segment(torch.randn(n, 4 * CHANNELS), grid, timesteps, torch.randn(n_text, TEXT_DIM))


@torch.no_grad()
def test_a_packed_sample_gets_what_it_gets_alone() -> None:
    model = make_model()
    segments = [make_segment(grid, n_text) for grid, n_text in zip(GRIDS, (5, 0, 9, 1), strict=True)]
    packed = collate(segments)
    for segment, found in zip(segments, packed.split(model(packed)), strict=True):
        torch.testing.assert_close(found, model(collate([segment])), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_order_in_the_pack_does_not_matter() -> None:
    model = make_model()
    segments = [make_segment(grid, 3) for grid in GRIDS]
    forwards, backwards = collate(segments), collate(segments[::-1])
    for a, b in zip(forwards.split(model(forwards)), backwards.split(model(backwards))[::-1], strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def sensitivity(pack: Pack, part: str) -> torch.Tensor:
    """How much each token's output changes when `part` of the pack is perturbed in segment two."""
    model = make_model()
    changed = dict(pack.tensors())
    values = changed[part].clone()
    values[-2:] += 0.5
    changed[part] = values
    with torch.no_grad():
        return (model(pack) - model(Pack(**changed))).abs().amax(dim=1)


@pytest.mark.parametrize("part", ["tokens", "timesteps", "text"])
def test_nothing_leaks_into_another_segment(part: str) -> None:
    pack = collate([make_segment((2, 2, 2), 4), make_segment((3, 2, 2), 4)])
    difference = sensitivity(pack, part)
    assert difference[8:].max() > 1e-3  # what was perturbed matters
    assert difference[:8].max() < TOLERANCE  # and to its own segment alone


@torch.no_grad()
def test_every_frame_has_its_own_timestep() -> None:
    model, segment = make_model(), make_segment((3, 2, 2), 4)
    other = Segment(segment.tokens, segment.grid, torch.tensor([0.0, 0.5, 1.0]), segment.text)
    assert (model(collate([segment])) - model(collate([other]))).abs().amax(dim=1).min() > 1e-3


@torch.no_grad()
def test_position_matters_in_every_axis() -> None:
    model, tokens, text = make_model(), torch.randn(4, 4 * CHANNELS), torch.randn(2, TEXT_DIM)
    grids = [(4, 1, 1), (1, 4, 1), (1, 1, 4)]
    found = [model(collate([Segment(tokens, grid, torch.full((grid[0],), 0.5), text)])) for grid in grids]
    for a, b in [(0, 1), (1, 2), (0, 2)]:
        assert (found[a] - found[b]).abs().max() > 1e-3


def test_activation_checkpointing_changes_no_gradient() -> None:
    pack = collate([make_segment(grid, 4) for grid in GRIDS])
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        model.activation_checkpointing = checkpointing
        model(pack).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(list(make_model().parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
