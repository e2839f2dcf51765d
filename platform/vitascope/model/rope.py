"""Rotary positions in time, height and width."""

import torch


def axis_channels(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's channels rotate with time, height and width; each even, about 2:3:3."""
    space = 2 * (3 * head_dim // 16)
    return head_dim - 2 * space, space, space


def angles(positions: torch.Tensor, head_dim: int, base: float = 10_000.0) -> torch.Tensor:
    """Rotation angles (N, head_dim / 2) of tokens at integer `positions` (N, 3).

    RoPE (Su et al. 2021, section 3.4), each axis on its own channels.
    """
    parts = []
    for axis, channels in enumerate(axis_channels(head_dim)):
        exponent = torch.arange(0, channels, 2, device=positions.device, dtype=torch.float32) / channels
        parts.append(positions[:, axis, None].float() * base**-exponent)
    return torch.cat(parts, dim=1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates channel pairs of x (N, heads, head_dim) by angles given as cos and sin (N, 1, head_dim / 2)."""
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
