"""Choose the size each clip is trained at."""

import math
from itertools import product

from vitascope.encode.settings import EncodeSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize

TIME_STRIDE = 4
"""Frames to a latent frame, after the first frame, which is coded alone."""

SPACE_STRIDE = 8
"""Pixels to a latent pixel, in height and in width."""


def choose(width: int, height: int, n_frames: int, settings: EncodeSettings, *, stride_px: int) -> VideoSize:
    """The bucket of a clip: near its native size and aspect, at most `settings.max_pixels`, never upscaled.

    Both sides are multiples of `stride_px` (codec stride times patch). Of the multiples around the scaled
    size, the pair that crops least is taken, and of equals the larger. The duration is the longest of
    `settings.frame_counts` that the clip fills.

    Raises:
        Rejected: TOO_SMALL where a side is shorter than `stride_px`; NO_BUCKET where the clip is shorter
            than every bucket, or so narrow that no size within `max_pixels` keeps both sides.
    """
    if min(width, height) < stride_px:
        raise Rejected(Reason.TOO_SMALL, f"{width}x{height} px; both sides need at least {stride_px} px")
    fitting = [n for n in settings.frame_counts if n <= n_frames]
    if not fitting:
        shortest = settings.frame_counts[0]
        raise Rejected(
            Reason.NO_BUCKET, f"{n_frames} frames; the shortest bucket has {shortest} (encode.frame_counts)"
        )
    sides = [
        (h, w)
        for h, w in _around(width, height, settings.max_pixels, stride_px)
        if h * w <= settings.max_pixels
    ]
    if not sides:
        raise Rejected(
            Reason.NO_BUCKET,
            f"{width}x{height} px has no size of {settings.max_pixels} px or fewer (encode.max_pixels)",
        )
    best = min(
        sides, key=lambda side: (round(cropped_share(width, height, *side), 6), -side[0] * side[1], side)
    )
    return VideoSize(fitting[-1], *best)


def _around(width: int, height: int, max_pixels: int, stride: int) -> list[tuple[int, int]]:
    """The multiples of `stride` just below and above the scaled (height, width), none above native."""
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    return list(product(_multiples(height, scale, stride), _multiples(width, scale, stride)))


def _multiples(side: int, scale: float, stride: int) -> list[int]:
    below = int(side * scale + 1e-6) // stride * stride
    return [n for n in (below, below + stride) if stride <= n <= side]


def cropped_share(width: int, height: int, bucket_height: int, bucket_width: int) -> float:
    """Share of a frame's area lost when it is scaled to cover the bucket and cropped to it."""
    scale = max(bucket_height / height, bucket_width / width)
    return 1.0 - (bucket_height * bucket_width) / (height * width * scale * scale)


def latent_shape(size: VideoSize) -> tuple[int, int, int]:
    """The latent's (T, h, w) of a video size. Raises ValueError where the strides do not divide it."""
    if size.n_frames % TIME_STRIDE != 1 or size.height % SPACE_STRIDE or size.width % SPACE_STRIDE:
        raise ValueError(
            f"frames must be 1 + {TIME_STRIDE}k and sides multiples of {SPACE_STRIDE} px, got {size}"
        )
    return 1 + size.n_frames // TIME_STRIDE, size.height // SPACE_STRIDE, size.width // SPACE_STRIDE


def count_tokens(size: VideoSize, patch: int) -> int:
    """Patches of `patch` x `patch` latent pixels in a sample of `size`."""
    frames, height, width = latent_shape(size)
    return frames * (height // patch) * (width // patch)
