"""Attention within the segments of a pack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False)
class Boundaries:
    """The segments' boundaries: lengths on the host, and their running sum on the device for the kernel."""

    lengths: Sequence[int]
    offsets: torch.Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Boundaries":
        """Boundaries of segments of these `lengths`; offsets are (S + 1,) int32."""
        offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(device=device, dtype=torch.int32)
        return cls(lengths, offsets, max(lengths))


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: tuple[Boundaries, Boundaries]
) -> torch.Tensor:
    """Block-diagonal attention: each segment's queries see only that segment's keys.

    Args:
        q: (N, heads, head_dim).
        k, v: (M, heads, head_dim).
        of: the boundaries of the queries and of the keys, with the same number of segments.

    Returns:
        (N, heads, head_dim). On a GPU in half precision one variable-length kernel; elsewhere one fused call
        per segment, which also does no work across segments.
    """
    queries, keys = of
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, queries.offsets, keys.offsets, queries.longest, keys.longest)
        return cast(torch.Tensor, out)
    pieces = zip(
        q.split(list(queries.lengths)), k.split(list(keys.lengths)), v.split(list(keys.lengths)), strict=True
    )
    return torch.cat([_one_segment(*piece) for piece in pieces])


def _one_segment(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """In float32: on a CPU the fused kernel's backward pass takes three times as long in bfloat16."""
    query, key, value = (x.float().transpose(0, 1)[None] for x in (q, k, v))  # 1 heads n head_dim
    return F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).to(q.dtype)
