"""Rotary positions in time, height and width."""

import torch

Axes = tuple[int, int, int]
"""How many of a head's channels rotate with time, height and width; each even."""


def angles(
    positions: torch.Tensor, axes: Axes, dtype: torch.dtype = torch.float32, base: float = 10_000.0
) -> torch.Tensor:
    """Rotation angles (N, head_dim / 2) of tokens at integer `positions` (N, 3), computed in `dtype`.

    RoPE (Su et al. 2021, section 3.4), each axis on its own channels.
    """
    parts = []
    for axis, channels in enumerate(axes):
        exponent = torch.arange(0, channels, 2, device=positions.device, dtype=dtype) / channels
        parts.append(positions[:, axis, None].to(dtype) * base**-exponent)
    return torch.cat(parts, dim=1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates channel pairs of x (N, heads, head_dim) by angles given as cos and sin (N, 1, head_dim / 2).

    A pair is a channel of the first half and the one at the same position in the second.
    """
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)


def rotate_neighbours(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates as `rotate`, but pairs of neighbouring channels; in the precision of `cos`, rounded to x's."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)
