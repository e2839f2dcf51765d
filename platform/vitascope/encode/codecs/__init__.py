"""Video codecs: frames to latents and back.

A codec is one file with one class and a line in `CODECS`.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch

from vitascope.encode.codecs.dct import DctCodec
from vitascope.encode.settings import EncodeSettings, Strides


class Codec(Protocol):
    """Turns frames into latents and back; an image is a video of one frame.

    Of 1 + k latent frames the first is of the first frame, each other one of `strides.time` frames.
    """

    channels: int
    strides: Strides
    fingerprint: str  # changes with everything that shapes a latent

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (F, H, W, 3) -> float32 (T, h, w, channels), of standard deviation about 1."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Float (T, h, w, channels) -> uint8 (F, H, W, 3)."""
        ...


CODECS: dict[str, Callable[[EncodeSettings], Codec]] = {"dct": DctCodec}


def make_codec(settings: EncodeSettings) -> Codec:
    """The codec named by `settings.codec`."""
    return CODECS[settings.codec](settings)


def psnr_db(frames: torch.Tensor, decoded: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 frames in dB, over pixels and colours; 100 if equal."""
    pairs = zip(frames, decoded, strict=True)  # a frame at a time: floats take four times the room
    error = sum((a.float() - b.float()).square().mean().item() for a, b in pairs) / len(frames)
    return min(100.0, 10 * math.log10(255**2 / error)) if error else 100.0
