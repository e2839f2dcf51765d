"""A few small pictures of a clip."""

from typing import Any

from vitascope.caption.settings import CaptionSettings
from vitascope.clips.analysis.letterbox import crop_of
from vitascope.media.clip import SOURCE, read_clip
from vitascope.media.mp4 import jpeg_bytes


def pictures(clip: dict[str, Any], settings: CaptionSettings, *, timeout_s: float) -> list[bytes]:
    """JPEG files of `settings.frames` frames of a clip, at even distances from its first to its last.

    A clip of fewer frames gives them all. One frame alone is the middle one. Small frames keep their size.

    Args:
        clip: a row of records.CLIPS.

    Raises:
        Rejected: DECODE_FAILED, SOURCE_CHANGED.
    """
    what = {key: clip[key] for key in SOURCE}
    what |= times(clip, settings.frames)
    frames = read_clip(**what, crop=crop_of(clip), timeout_s=timeout_s)
    return [jpeg_bytes(frame, settings.max_side_px) for frame in frames]


def times(clip: dict[str, Any], n_frames: int) -> dict[str, Any]:
    """When the frames are: start_s, fps and n_frames of `read_clip`."""
    last = clip["n_frames"] - 1
    count = min(n_frames, last + 1)
    if count == 1:
        return {"start_s": clip["start_s"] + (last + 1) // 2 / clip["fps"], "fps": clip["fps"], "n_frames": 1}
    return {"start_s": clip["start_s"], "fps": clip["fps"] * (count - 1) / last, "n_frames": count}
