"""Choose the size each clip is trained at."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from vitascope.config import Settings
from vitascope.encode.settings import EncodeSettings, Strides
from vitascope.encode.strides import check_lengths, strides_of
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize
from vitascope.wording import count

MAX_UPSCALE = 1.05
"""The most that a fixed bucket may enlarge a frame's sides: 854x480 may become 864x480."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Patching:
    """How a video becomes patches, each a token: by its codec's strides and the model's patch."""

    strides: Strides
    patch: int  # side in latent pixels

    @property
    def side_px(self) -> int:
        """The side of a patch; a video's sides are multiples of it."""
        return self.strides.space * self.patch

    def latent_shape(self, size: VideoSize) -> tuple[int, int, int]:
        """The latent's (T, h, w) of a video size. Raises ValueError if the strides do not divide it."""
        time, space = self.strides
        if size.n_frames % time != 1 or size.height % space or size.width % space:
            raise ValueError(f"frames must be 1 + {time}k and sides multiples of {space} px, got {size}")
        return 1 + size.n_frames // time, size.height // space, size.width // space

    def n_tokens(self, size: VideoSize) -> int:
        """Patches in a sample of `size`; raises as `latent_shape` does."""
        frames, height, width = self.latent_shape(size)
        return frames * (height // self.patch) * (width // self.patch)

    def covering(self, size: VideoSize) -> VideoSize:
        """The smallest size that holds `size`: whole latent frames, sides of whole patches."""
        time, side = self.strides.time, self.side_px
        frames = 1 + time * -(-(size.n_frames - 1) // time)
        return VideoSize(frames, side * -(-size.height // side), side * -(-size.width // side))


@dataclass(frozen=True)
class Limits:
    """The limits of a sample."""

    patching: Patching
    token_budget: int  # a pack's, so no sample can be larger

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Those of the settings; raises as `strides.check_lengths` does."""
        check_lengths(settings.encode)
        patching = Patching(strides_of(settings.encode), settings.model.patch)
        return cls(patching, settings.feed.token_budget)


def sizes_of(
    clip: VideoSize, settings: EncodeSettings, limits: Limits
) -> list[tuple[VideoSize, int] | Rejected]:
    """The sizes of a clip (`choose`), each with its tokens, or why a sample of that size cannot be."""
    try:
        sizes = choose(clip.width, clip.height, clip.n_frames, settings, stride_px=limits.patching.side_px)
    except Rejected as error:
        return [error]
    return [_within(size, limits) for size in sizes]


def _within(size: VideoSize, limits: Limits) -> tuple[VideoSize, int] | Rejected:
    n_tokens = limits.patching.n_tokens(size)
    if n_tokens <= limits.token_budget:
        return size, n_tokens
    return Rejected(
        Reason.TOO_MANY_TOKENS,
        f"{size} makes {n_tokens} tokens, a pack holds {limits.token_budget} (feed.token_budget); "
        "lower encode.max_pixels or encode.frame_counts",
    )


def choose(
    width: int, height: int, n_frames: int, settings: EncodeSettings, *, stride_px: int
) -> list[VideoSize]:
    """The buckets of a clip, `settings.sizes_per_clip` or fewer, all different, the best first.

    If `settings.buckets` is set: the buckets worth most (`kept`), of equals the longest. Else: sizes near
    native in area and aspect, at most `settings.max_pixels`, never upscaled, each after the first with at
    most a quarter of the previous one's area. Their sides are multiples of `stride_px` (codec stride times
    patch): of the multiples around the scaled size the pair that crops least, of equals the larger. The
    duration is the longest of `settings.frame_counts` that the clip fills.

    Raises:
        Rejected: TOO_SMALL if a side is shorter than `stride_px`; NO_BUCKET if the clip is shorter
            than every bucket, or so narrow that no size within `max_pixels` keeps both sides, or if every
            fixed bucket would upscale or crop it too much.
    """
    if settings.buckets:
        return _of_table(VideoSize(n_frames, height, width), settings)
    if min(width, height) < stride_px:
        raise Rejected(Reason.TOO_SMALL, f"{width}x{height} px; both sides need at least {stride_px} px")
    fitting = [n for n in settings.frame_counts if n <= n_frames]
    if not fitting:
        shortest = settings.frame_counts[0]
        raise Rejected(
            Reason.NO_BUCKET,
            f"{count(n_frames, 'frame')}; the shortest bucket has {shortest} (encode.frame_counts)",
        )
    sides: list[tuple[int, int]] = []
    max_pixels = settings.max_pixels
    while len(sides) < settings.sizes_per_clip and (
        side := near_native(width, height, max_pixels, stride_px)
    ):
        sides.append(side)
        max_pixels = side[0] * side[1] // 4
    if not sides:
        raise Rejected(
            Reason.NO_BUCKET,
            f"{width}x{height} px has no size of {settings.max_pixels} px or fewer (encode.max_pixels)",
        )
    return [VideoSize(fitting[-1], *side) for side in sides]


@dataclass(frozen=True)
class Kept:
    """What buckets keep of clips; arrays of one shape, one element for each pair of a clip and a bucket.

    scale: of the sides, below 1 if the clip is made smaller. view: fraction of the frame's area that is left
    after the crop. pixels: fraction of the frame's pixels that is left after crop and scaling. seconds:
    fraction of the clip's duration. fits: whether the clip may go to the bucket.

    worth: 0 if the clip does not fit, else the harmonic mean of seconds and of view x pixels. View counts
    twice, because the caption also describes what is cropped. Enlarging divides by the area that it adds, so
    that of two sizes the one below native wins. The mean is harmonic because all buckets that use up a limit
    on tokens keep about the same pixels x seconds, whether small and long or large and short; of those it
    prefers the one that gives up as much of either.
    """

    scale: Floats
    view: Floats
    pixels: Floats
    seconds: Floats
    fits: npt.NDArray[np.bool_]
    worth: Floats


def kept(clips: npt.NDArray, buckets: npt.NDArray, max_crop: float) -> Kept:
    """What each bucket keeps of each clip; both are (..., 3) of n_frames, height, width, and broadcast.

    A clip fits a bucket if it has the bucket's frames, is enlarged at most MAX_UPSCALE times and loses at
    most `max_crop` of its area. A clip longer than its bucket loses its tail.
    """
    relative = buckets / clips  # (..., 3)
    scale = np.maximum(relative[..., 1], relative[..., 2])
    view = relative[..., 1] * relative[..., 2] / scale**2
    pixels = view * np.minimum(scale, 1) ** 2
    seconds = np.minimum(relative[..., 0], 1)
    fits = (relative[..., 0] <= 1) & (scale <= MAX_UPSCALE) & (view >= 1 - max_crop - 1e-6)
    seen = view * pixels / np.maximum(scale, 1) ** 2
    return Kept(scale, view, pixels, seconds, fits, fits * 2 * seen * seconds / (seen + seconds))


def _of_table(clip: VideoSize, settings: EncodeSettings) -> list[VideoSize]:
    table = np.array(sorted(settings.buckets or (), reverse=True), np.int64)
    keeps = kept(np.array([clip.n_frames, clip.height, clip.width]), table, settings.max_crop)
    if not keeps.fits.any():
        filled = table[:, 0] <= clip.n_frames
        raise Rejected(
            Reason.NO_BUCKET, _why_none(clip, table[filled], keeps.view[filled], settings.max_crop)
        )
    best = np.argsort(-keeps.worth, kind="stable")[: settings.sizes_per_clip]
    return [VideoSize(*size) for size in table[best[keeps.fits[best]]].tolist()]


def _why_none(clip: VideoSize, filled: Ints, view: Floats, max_crop: float) -> str:
    """Why the clip fits none of the buckets that it fills in time, (K, 3), each with its `Kept.view`."""
    if not len(filled):
        return f"{count(clip.n_frames, 'frame')}; every bucket of encode.buckets has more"
    size = f"{clip.width}x{clip.height} px"
    large_enough = np.maximum(filled[:, 1] / clip.height, filled[:, 2] / clip.width) <= MAX_UPSCALE
    if not large_enough.any():
        return f"{size}; every bucket of encode.buckets that it fills in time would upscale it"
    cropped = 1 - view[large_enough].max()
    return f"{size}; the best of encode.buckets crops {cropped:.0%} of it, encode.max_crop is {max_crop:.0%}"


def check_table(settings: EncodeSettings, limits: Limits) -> None:
    """Raises Mistake for a fixed bucket that the strides do not divide or that no pack holds."""
    patching, stride = limits.patching, limits.patching.side_px
    for size in (VideoSize(*bucket) for bucket in settings.buckets or ()):
        if size.height % stride or size.width % stride:
            raise Mistake(
                f"encode.buckets: {size} has a side that is no multiple of {stride} px "
                f"({patching.strides.space} x model.patch); change it"
            )
        if (n_tokens := patching.n_tokens(size)) > limits.token_budget:
            raise Mistake(
                f"encode.buckets: {size} makes {n_tokens} tokens, a pack holds {limits.token_budget}; make "
                "it smaller, or raise feed.token_budget"
            )


def near_native(width: int, height: int, max_pixels: int, stride: int) -> tuple[int, int] | None:
    """The (height, width) that crops a frame least, of `max_pixels` or fewer, None if there is none.

    Of the multiples of `stride` just below and above the scaled sides, none above native.
    """
    scale = min(1.0, math.sqrt(max_pixels / (width * height)))
    near = []
    for side in (height, width):
        below = int(side * scale + 1e-6) // stride * stride
        near.append([n for n in (below, below + stride) if stride <= n <= side])
    return min(
        ((h, w) for h, w in product(*near) if h * w <= max_pixels),
        key=lambda side: (round(cropped_share(width, height, *side), 6), -side[0] * side[1], side),
        default=None,
    )


def cropped_share(width: int, height: int, bucket_height: int, bucket_width: int) -> float:
    """Fraction of a frame's area that is lost if it is scaled to cover the bucket and cropped to it."""
    scale = max(bucket_height / height, bucket_width / width)
    return 1.0 - (bucket_height * bucket_width) / (height * width * scale * scale)
