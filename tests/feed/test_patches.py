"""Latents survive being cut into patches."""

import pytest
import torch

from vitascope.feed.patches import grid_of, patchify, unpatchify


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 4, 6, 5), (2, 8, 2, 1)])
def test_unpatchify_inverts_patchify(shape: tuple[int, int, int, int]) -> None:
    latent = torch.randn(shape)
    tokens = patchify(latent, 2)
    grid = grid_of(shape[:3], 2)
    assert tokens.shape == (grid[0] * grid[1] * grid[2], 4 * shape[3])
    assert torch.equal(unpatchify(tokens, grid, 2), latent)


def test_tokens_run_along_width_then_height_then_time() -> None:
    latent = torch.arange(2 * 4 * 4).reshape(2, 4, 4, 1).float()
    assert patchify(latent, 2)[:, 0].tolist() == [0, 2, 8, 10, 16, 18, 24, 26]


def test_a_latent_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="latent of 3x4 does not divide into 2x2 patches"):
        grid_of((1, 3, 4), 2)
