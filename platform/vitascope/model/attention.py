"""Attention within the segments of a pack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F


@dataclass(frozen=True, eq=False)
class Boundaries:
    """The segments' boundaries: lengths on the host, and their running sum on the device for the kernel.

    repeats: how many times each segment's last key counts, 0 or more; None for once. The offsets and the
    longest length count the repetitions, `lengths` do not.
    """

    lengths: Sequence[int]
    offsets: torch.Tensor
    longest: int
    repeats: Sequence[int] | None = None

    @classmethod
    def of(
        cls, lengths: Sequence[int], device: torch.device, repeats: Sequence[int] | None = None
    ) -> "Boundaries":
        """Boundaries of segments of these `lengths`; offsets are (S + 1,) int32."""
        whole = lengths if repeats is None else [n - 1 + m for n, m in zip(lengths, repeats, strict=True)]
        offsets = F.pad(torch.tensor(whole).cumsum(0), (1, 0)).to(device=device, dtype=torch.int32)
        return cls(lengths, offsets, max(whole), repeats)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: tuple[Boundaries, Boundaries]
) -> torch.Tensor:
    """Block-diagonal attention: each segment's queries see only that segment's keys.

    Args:
        q: (N, heads, head_dim).
        k, v: (M, heads, head_dim).
        of: the boundaries of the queries and of the keys, with the same number of segments.

    Returns:
        (N, heads, head_dim). On a GPU in half precision one variable-length kernel, which has no bias, so
        that repeated keys are laid out; elsewhere one fused call per segment, which also does no work across
        segments, and in which a key counts n times if ln(n) is added to its logit.
    """
    queries, keys = of
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        k, v = laid_out(k, keys), laid_out(v, keys)
        out = varlen_attn(q, k, v, queries.offsets, keys.offsets, queries.longest, keys.longest)
        return cast(torch.Tensor, out)
    pieces = zip(
        q.split(list(queries.lengths)),
        k.split(list(keys.lengths)),
        v.split(list(keys.lengths)),
        keys.repeats or [1] * len(keys.lengths),
        strict=True,
    )
    return torch.cat([_one_segment(*piece) for piece in pieces])


def laid_out(x: torch.Tensor, keys: Boundaries) -> torch.Tensor:
    """Keys or values (M, heads, head_dim) with each segment's last one repeated as often as it counts.

    In half precision the gradients of the repetitions are summed before they are rounded.
    """
    if keys.repeats is None:
        return x
    parts = zip(x.split(list(keys.lengths)), keys.repeats, strict=True)
    return torch.cat([piece for part, n in parts for piece in (part[:-1], part[-1:].expand(n, -1, -1))])


def _one_segment(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, repeats: int) -> torch.Tensor:
    """In float32: on a CPU the fused kernel's backward pass takes three times as long in bfloat16."""
    query, key, value = (x.float().transpose(0, 1)[None] for x in (q, k, v))  # 1 heads n head_dim
    bias = None if repeats == 1 else _bias(len(k), repeats, k.device)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out[0].transpose(0, 1).to(q.dtype)


def _bias(n_keys: int, repeats: int, device: torch.device) -> torch.Tensor:
    """Makes the last of `n_keys` count `repeats` times: (1, n_keys), ln(repeats) on its logit, else zeros."""
    return F.pad(torch.tensor([[float(repeats)]], device=device).log(), (n_keys - 1, 0))
