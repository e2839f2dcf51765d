"""Samples laid end to end in one sequence.

A pack holds the patches of several samples, each with its own size, noise level per latent frame and text,
and the boundaries between them. Training and generation use the same packs.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch

from vitascope.feed.patches import Grid


@dataclass(frozen=True)
class Draw:
    """How one sample is trained in one epoch: noise level per latent frame, no caption or its own."""

    timesteps: np.ndarray
    drop_text: bool
    noise_key: int


@dataclass(frozen=True, eq=False)
class Segment:
    """One sample in a pack.

    tokens: (n, D) patches, at the noise levels of `timesteps` or clean; the owner knows which.
    grid: patches along time, height, width; n is their product.
    timesteps: (T,) float32 noise level of each latent frame, 0 clean to 1 noise; NaN and others are refused.
    text: (m, text_dim) token states of the caption; m = 0 is unconditional.
    sample_id: identifies the sample to the packer.
    noise_key: seed of the sample's noise.
    """

    tokens: torch.Tensor
    grid: Grid
    timesteps: torch.Tensor
    text: torch.Tensor
    sample_id: int = -1
    noise_key: int = 0

    def __post_init__(self) -> None:
        if min(self.grid) < 1:
            raise ValueError(f"a grid has 1 patch or more along each axis, got {self.grid}")
        if self.tokens.shape[0] != prod(self.grid):
            raise ValueError(
                f"a grid of {self.grid} holds {prod(self.grid)} tokens, got {self.tokens.shape[0]}"
            )
        if self.timesteps.shape != (self.grid[0],):
            raise ValueError(
                f"expected {self.grid[0]} timesteps, one a latent frame, got {tuple(self.timesteps.shape)}"
            )
        if not bool(((self.timesteps >= 0) & (self.timesteps <= 1)).all()):
            raise ValueError(f"timesteps are from 0, clean, to 1, noise, got {self.timesteps.tolist()}")


@dataclass(frozen=True, eq=False)
class Pack:
    """Segments end to end: N tokens, F latent frames, M text tokens in total, S segments.

    tokens (N, D); timesteps (F,) float32; text (M, text_dim); grids (S, 3), text_lengths (S,),
    sample_ids (S,) and noise_keys (S,) int64.
    """

    tokens: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    grids: torch.Tensor
    text_lengths: torch.Tensor
    sample_ids: torch.Tensor
    noise_keys: torch.Tensor

    @property
    def n_tokens(self) -> int:
        """Patches in the pack."""
        return int(self.tokens.shape[0])

    @property
    def n_segments(self) -> int:
        """Samples in the pack."""
        return int(self.grids.shape[0])

    @cached_property
    def lengths(self) -> list[int]:
        """Patches of each segment."""
        lengths: list[int] = self.grids.prod(dim=1).tolist()  # one transfer from a GPU, not one a segment
        return lengths

    @cached_property
    def segment_of_token(self) -> torch.Tensor:
        """(N,) int64: the segment each token belongs to."""
        return _repeat(self.grids.prod(dim=1))

    @cached_property
    def segment_of_frame(self) -> torch.Tensor:
        """(F,) int64: the segment each latent frame belongs to."""
        return _repeat(self.grids[:, 0])

    @cached_property
    def frame_of_token(self) -> torch.Tensor:
        """(N,) int64: the latent frame, counted through the pack, each token belongs to."""
        patches_per_frame = (self.grids[:, 1] * self.grids[:, 2])[self.segment_of_frame]
        return _repeat(patches_per_frame)

    @cached_property
    def positions(self) -> torch.Tensor:
        """(N, 3) int64: time, row and column of each token within its own segment."""
        segment = self.segment_of_token
        grid = self.grids[segment]
        starts = self.grids.prod(dim=1).cumsum(0) - self.grids.prod(dim=1)
        index = torch.arange(self.n_tokens, device=segment.device) - starts[segment]
        area = grid[:, 1] * grid[:, 2]
        return torch.stack([index // area, index % area // grid[:, 2], index % grid[:, 2]], dim=1)

    @cached_property
    def nearest_given(self) -> torch.Tensor:
        """(N,) int64: the token at the same position in the nearest conditioning frame; -1 without one.

        A conditioning frame has noise level 0 and is in the same segment; of two equally near, the earlier.
        """
        n_frames, segment = len(self.timesteps), self.segment_of_frame
        frame, given = torch.arange(n_frames, device=segment.device), self.timesteps == 0
        before = torch.where(given, frame, -1).cummax(0).values
        after = torch.where(given, frame, n_frames).flip(0).cummin(0).values.flip(0)
        ends = self.grids[:, 0].cumsum(0)
        far = n_frames + 1
        to_before = torch.where(before >= (ends - self.grids[:, 0])[segment], frame - before, far)
        to_after = torch.where(after < ends[segment], after - frame, far)
        step = torch.where(to_before <= to_after, -to_before, to_after)  # F
        area = (self.grids[:, 1] * self.grids[:, 2])[segment]
        shifted = (step * area)[self.frame_of_token] + torch.arange(self.n_tokens, device=segment.device)
        return torch.where((step.abs() < far)[self.frame_of_token], shifted, -1)

    def with_tokens(self, tokens: torch.Tensor) -> "Pack":
        """The same pack with other tokens: (N, D)."""
        return dataclasses.replace(self, tokens=tokens)

    def split(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Cuts (N, …) values at the segments' boundaries."""
        return list(values.split(self.lengths))

    def to(self, device: torch.device | str) -> "Pack":
        """The same pack on `device`."""
        return Pack(**{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields by name, for serialisation."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def collate(segments: Sequence[Segment]) -> Pack:
    """Lays `segments` end to end. At least one; all of one token and one text dimension."""
    if not segments:
        raise ValueError("a pack holds at least one segment; for a rank with nothing to do see `idle`")
    return Pack(
        tokens=torch.cat([s.tokens for s in segments]),
        timesteps=torch.cat([s.timesteps.float() for s in segments]),
        text=torch.cat([s.text for s in segments]),
        grids=torch.tensor([s.grid for s in segments]),
        text_lengths=torch.tensor([len(s.text) for s in segments]),
        sample_ids=torch.tensor([s.sample_id for s in segments]),
        noise_keys=torch.tensor([s.noise_key for s in segments]),
    )


def idle(token_dim: int, text_dim: int) -> Pack:
    """A pack of one clean token, whose loss is zero: for a rank without a pack in a step.

    Every rank must run the same number of passes, because ZeRO-3 gathers the weights in each.
    """
    empty = Segment(torch.zeros(1, token_dim), (1, 1, 1), torch.zeros(1), torch.zeros(0, text_dim))
    return collate([empty])


def _repeat(counts: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
