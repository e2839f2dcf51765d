"""Scale and crop frames to a bucket."""

import numpy as np
import torch
import torch.nn.functional as F

from vitascope.records import VideoSize

CROP_RULE = "bilinear antialiased to cover, centre crop"
"""Names what `fit` does to a frame; part of the latents' fingerprint."""


def fit(frames: np.ndarray | torch.Tensor, size: VideoSize) -> torch.Tensor:
    """The first `size.n_frames` frames, scaled to cover `size` and cropped around the centre.

    Args:
        frames: uint8 (F, H, W, 3), F at least `size.n_frames`.

    Returns: uint8 (size.n_frames, size.height, size.width, 3), contiguous.

    Raises:
        ValueError: where `frames` has another type or shape, or too few frames.
    """
    _check(frames, size)
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(frames if frames.flags.writeable else frames.copy())
    picked = frames[: size.n_frames]
    height, width = picked.shape[1:3]
    scale = max(size.height / height, size.width / width)
    cover = max(size.height, round(height * scale)), max(size.width, round(width * scale))
    if cover != (height, width):
        planes = picked.permute(0, 3, 1, 2)
        planes = F.interpolate(planes, cover, mode="bilinear", antialias=True, align_corners=False)
        picked = planes.permute(0, 2, 3, 1)
    top, left = (cover[0] - size.height) // 2, (cover[1] - size.width) // 2
    return picked[:, top : top + size.height, left : left + size.width].contiguous()


def _check(frames: np.ndarray | torch.Tensor, size: VideoSize) -> None:
    right_type = frames.dtype in (np.uint8, torch.uint8)
    if not right_type or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] < size.n_frames:
        raise ValueError(
            f"fit takes uint8 frames (F, H, W, 3) with F >= {size.n_frames}, "
            f"got {frames.dtype} of shape {tuple(frames.shape)}"
        )
