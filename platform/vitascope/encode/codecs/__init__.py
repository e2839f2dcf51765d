"""Video codecs: frames to latents and back.

A codec is one file with one class and a line in `CODECS`.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch

from vitascope.encode.codecs.dct import DctCodec
from vitascope.encode.settings import EncodeSettings


class Codec(Protocol):
    """Turns frames into latents and back; an image is a video of one frame.

    Frames come as 1 + 4k, latents as 1 + k: the first frame is coded alone.
    """

    channels: int
    time_stride: int
    space_stride: int
    fingerprint: str  # changes with everything that shapes a latent

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (1 + 4k, H, W, 3) -> float32 (1 + k, H / 8, W / 8, channels), of deviation about 1."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Float (1 + k, h, w, channels) -> uint8 (1 + 4k, 8 h, 8 w, 3)."""
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
