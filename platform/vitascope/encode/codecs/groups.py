"""Frames as codecs take them: the first alone, then groups."""

from collections.abc import Iterator

import torch

from vitascope.encode.settings import Strides


def groups(frames: torch.Tensor, stride: int) -> Iterator[torch.Tensor]:
    """The first of 1 + k * stride frames (F, ...), then k views of `stride` frames each."""
    yield frames[:1]
    yield from (frames[i : i + stride] for i in range(1, len(frames), stride))


def check_frames(frames: torch.Tensor, strides: Strides) -> None:
    """Raises ValueError unless `frames` are uint8 (1 + k * time, H, W, 3), H and W multiples of space."""
    time, space = strides
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are uint8 (F, H, W, 3), got {frames.dtype} of shape {tuple(frames.shape)}")
    if frames.shape[0] % time != 1 or frames.shape[1] % space or frames.shape[2] % space:
        raise ValueError(
            f"frames are 1 + {time}k with sides in multiples of {space} px, got {tuple(frames.shape[:3])}"
        )


def check_latents(latents: torch.Tensor, channels: int) -> None:
    """Raises ValueError unless `latents` are (T, h, w, channels), T at least 1."""
    if latents.ndim != 4 or latents.shape[-1] != channels or not len(latents):
        raise ValueError(f"latents are (T, h, w, {channels}), got {tuple(latents.shape)}")
