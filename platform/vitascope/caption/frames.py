"""A few small pictures of a clip."""

from vitascope.caption.settings import CaptionSettings
from vitascope.media.clip import Clip
from vitascope.media.mp4 import jpeg_bytes


def pictures(clip: Clip, settings: CaptionSettings, *, timeout_s: float) -> list[bytes]:
    """JPEG files of `settings.frames` frames of a clip, evenly spaced from its first to its last.

    A clip with fewer frames gives all of them; a single frame is the middle one. Frames are never enlarged.

    Raises:
        Rejected: DECODE_FAILED, SOURCE_CHANGED.
    """
    frames = clip.frames(settings.frames, timeout_s=timeout_s)
    return [jpeg_bytes(frame, settings.max_side_px) for frame in frames]
