"""Frames too large to be coded at once, as overlapping tiles."""

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

RULE = "a quarter of a tile's side overlaps, linear"
"""How frames are cut and put together; part of the fingerprint."""

_MOST_IN_A_ROW = 64


class Span(NamedTuple):
    """A tile along an axis, from `start` to `stop`; its first `before` and last `after` overlap others."""

    start: int
    stop: int
    before: int
    after: int

    def times(self, stride: int) -> "Span":
        """The same in pixels."""
        return Span(*(stride * value for value in self))

    def weights(self) -> torch.Tensor:
        """(stop - start,) float32: rises and falls linearly; those of all tiles add up to 1 everywhere."""
        at = torch.arange(self.stop - self.start) + 0.5
        rising = (at / max(self.before, 1)).clamp(max=1) if self.before else torch.ones_like(at)
        falling = (at.flip(0) / max(self.after, 1)).clamp(max=1) if self.after else torch.ones_like(at)
        return rising * falling


class Tile(NamedTuple):
    """A tile of a frame."""

    rows: Span
    columns: Span

    def times(self, stride: int) -> "Tile":
        """The same in pixels."""
        return Tile(self.rows.times(stride), self.columns.times(stride))

    def of(self, frames: torch.Tensor) -> torch.Tensor:
        """Its part of frames (F, H, W, C), a view."""
        return frames[:, self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]

    def weights(self) -> torch.Tensor:
        """(height, width, 1) float32."""
        return (self.rows.weights()[:, None] * self.columns.weights()[None])[..., None]


def tiles(height: int, width: int, most: int) -> list[Tile]:
    """Cuts a frame into tiles of equal size and at most `most` latent pixels: as few as possible, then the
    squarest; a frame that fits is one tile. Neighbours overlap by about a quarter of their side."""
    grids = []
    for n in range(1, min(height, _MOST_IN_A_ROW) + 1):
        fitting = (m for m in range(1, width + 1) if _side(height, n) * _side(width, m) <= most)
        if m := next(fitting, None):
            grids.append((n * m, abs(_side(height, n) - _side(width, m)), n, m))
    if not grids:
        raise ValueError(f"no tiles of {most} latent pixels cover a frame of {height}x{width}")
    _, _, n, m = min(grids)
    return [Tile(rows, columns) for rows in _spans(height, n) for columns in _spans(width, m)]


def _side(length: int, n: int) -> int:
    """The side of `n` tiles that cover `length`, if each overlaps the next by a quarter."""
    return math.ceil(4 * length / (3 * n + 1))


def _spans(length: int, n: int) -> list[Span]:
    side = _side(length, n)
    starts = [i * (length - side) // max(n - 1, 1) for i in range(n)]
    overlaps = [0, *(a + side - b for a, b in pairwise(starts)), 0]
    return [
        Span(start, start + side, before, after)
        for start, before, after in zip(starts, overlaps, overlaps[1:], strict=False)
    ]


def encode_tiles(
    frames: torch.Tensor, grid: Sequence[Tile], stride: int, encode: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The latents (T, h, w, C) of frames (F, H, W, 3), from those that `encode` gives for each tile's."""
    latents = torch.empty(0)
    for tile in grid:
        part = encode(tile.times(stride).of(frames))
        if not latents.numel():
            shape = (len(part), *(side // stride for side in frames.shape[1:3]), part.shape[-1])
            latents = torch.zeros(shape, device=part.device)
        tile.of(latents).add_(part * tile.weights().to(part.device))
    return latents


def decode_tiles(
    latents: torch.Tensor,
    grid: Sequence[Tile],
    stride: int,
    decode: Callable[[torch.Tensor], Iterator[torch.Tensor]],
) -> Iterator[torch.Tensor]:
    """The video of latents (T, h, w, C) as groups uint8 (f, H, W, 3), from the groups of each tile's.

    A tile is decoded to its end before the next, so that the features of one are in memory; their pixels wait
    in a temporary file.
    """
    with tempfile.TemporaryFile() as file:
        for tile in grid:
            lengths = []
            for group in decode(tile.of(latents)):
                file.write(group.cpu().numpy().tobytes())
                lengths.append(len(group))
        file.flush()
        pixels = [tile.times(stride) for tile in grid]
        sides = [(t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in pixels]
        parts = np.memmap(file, np.uint8, "r").reshape(len(grid), sum(lengths), *sides[0], 3)
        size = [stride * side for side in latents.shape[1:3]]
        first = 0
        for length in lengths:
            yield torch.stack([_frame(parts[:, i], pixels, size) for i in range(first, first + length)])
            first += length


def _frame(parts: np.ndarray, grid: Sequence[Tile], size: Sequence[int]) -> torch.Tensor:
    """uint8 (H, W, 3) from the tiles' pixels (n, height, width, 3)."""
    frame = torch.zeros(1, *size, 3)
    for part, tile in zip(parts, grid, strict=True):
        tile.of(frame).add_(torch.from_numpy(part.astype(np.float32)) * tile.weights())
    return frame[0].round().to(torch.uint8)
