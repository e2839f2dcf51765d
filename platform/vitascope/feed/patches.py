"""Latents to spacetime patches, and back."""

import torch

Grid = tuple[int, int, int]
"""Patches of a sample along time, height and width."""


def grid_of(latent_shape: tuple[int, int, int], patch: int) -> Grid:
    """The patch grid of a latent of T x h x w; h and w are multiples of `patch`.

    Raises:
        ValueError: they are no multiples.
    """
    frames, height, width = latent_shape
    if height % patch or width % patch:
        raise ValueError(f"latent of {height}x{width} does not divide into {patch}x{patch} patches")
    return frames, height // patch, width // patch


def patchify(latent: torch.Tensor, patch: int) -> torch.Tensor:
    """Cuts a latent (T, h, w, C) into tokens (T * h/p * w/p, p * p * C), time-major then row by row."""
    frames, height, width, channels = latent.shape
    t, h, w = grid_of((frames, height, width), patch)
    blocks = latent.reshape(t, h, patch, w, patch, channels).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(t * h * w, patch * patch * channels)


def unpatchify(tokens: torch.Tensor, grid: Grid, patch: int) -> torch.Tensor:
    """The latent (T, h, w, C) that `patchify` cut into `tokens`."""
    t, h, w = grid
    channels = tokens.shape[-1] // (patch * patch)
    blocks = tokens.reshape(t, h, w, patch, patch, channels).permute(0, 1, 3, 2, 4, 5)
    return blocks.reshape(t, h * patch, w * patch, channels)
