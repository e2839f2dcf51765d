"""A few small pictures of a clip."""

import io

import numpy as np
from PIL import Image

from vitascope.caption.settings import CaptionSettings
from vitascope.media.clip import Clip

_QUALITY = 90  # of JPEG: a frame of 512 pixels takes some 50 KB


def pictures(clip: Clip, settings: CaptionSettings, *, timeout_s: float) -> list[bytes]:
    """JPEG files of `settings.frames` frames of a clip, evenly spaced from its first to its last.

    A clip with fewer frames gives all of them; a single frame is the middle one. Frames are never enlarged.

    Raises:
        Rejected: DECODE_FAILED, SOURCE_CHANGED.
    """
    frames = clip.frames(settings.frames, timeout_s=timeout_s)
    return [_jpeg(frame, settings.max_side_px) for frame in frames]


def _jpeg(frame: np.ndarray, max_side_px: int) -> bytes:
    """A frame (H W 3, uint8, RGB) as JPEG, scaled down with antialiasing."""
    picture = Image.fromarray(frame)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
