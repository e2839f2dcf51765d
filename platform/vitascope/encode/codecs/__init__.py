"""Video codecs: frames to latents and back.

A codec is one file with one class and a line in `CODECS`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch

from vitascope.encode.codecs.autoencoder import Autoencoder
from vitascope.encode.codecs.dct import DctCodec
from vitascope.encode.settings import EncodeSettings, Strides


class Codec(Protocol):
    """Turns frames into latents and back; an image is a video of one frame.

    Of 1 + k latent frames the first is of the first frame, each other one of `strides.time` frames. Frames
    and latents may be on any device; results are on the codec's.
    """

    channels: int
    strides: Strides

    @property
    def fingerprint(self) -> str:
        """Changes with everything that shapes a latent."""
        ...

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (F, H, W, 3) -> float32 (T, h, w, channels), of standard deviation about 1."""
        ...

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Float (T, h, w, channels) -> for each latent frame its frames, uint8 (f, H, W, 3).

        They are decoded as they are asked for: a whole video need not fit into memory.
        """
        ...

    def decode_parts(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The same frames, of latents that come in parts, in order; a part is asked for when it is needed.

        A codec that decodes a video at once, or in tiles, waits for all parts first.
        """
        ...


CODECS: dict[str, Callable[[EncodeSettings, torch.device], Codec]] = {
    "dct": DctCodec,
    "diffusers": Autoencoder,
}


def make_codec(settings: EncodeSettings, device: torch.device | None = None) -> Codec:
    """The codec named by `settings.codec`, by default on the CPU."""
    return CODECS[settings.codec](settings, device or torch.device("cpu"))


def psnr_db(frames: torch.Tensor, decoded: Iterable[torch.Tensor]) -> float:
    """Peak signal-to-noise ratio in dB of a video, uint8 (F, H, W, 3), decoded in groups (f, H, W, 3).

    The mean is over pixels and colours; 100 if equal.
    """
    pairs = zip(frames, (frame for group in decoded for frame in group), strict=True)
    # A frame at a time: floats take four times the room.
    error = sum((a.float() - b.float()).square().mean().item() for a, b in pairs) / len(frames)
    return decibels(error)


def decibels(mean_squared_error: float) -> float:
    """The peak signal-to-noise ratio of pixels 0 to 255 with this error, in dB; at most 100."""
    return min(100.0, 10 * math.log10(255**2 / mean_squared_error)) if mean_squared_error else 100.0
