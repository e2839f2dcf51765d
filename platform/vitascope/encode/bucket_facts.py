"""What a bucket table keeps of the clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vitascope.clips.table import clip_table
from vitascope.config import Settings
from vitascope.encode.buckets import MAX_UPSCALE, Floats, Ints, Kept, Patching, kept, near_native
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.strides import strides_of
from vitascope.encode.suggest import Clips, Limits, clips_of, propose, usable
from vitascope.records import VideoSize

_ROWS = 1 << 16  # sizes of clips judged at a time


@dataclass(frozen=True)
class Choice:
    """What each of N sizes of clips goes to.

    bucket: (N,) row of the table, -1 for none. kept: (N,) of each clip by it. reason: (N,) why there is none,
    an index into REASONS.
    """

    bucket: Ints
    kept: Kept
    reason: Ints


REASONS = ("shorter than every bucket", "every bucket would upscale it", "every bucket crops too much")


def assign(clips: Clips, buckets: Sequence[VideoSize], max_crop: float) -> Choice:
    """The bucket of each size of clip, as `buckets.choose` gives it; in bounded memory."""
    table = np.array([(b.n_frames, b.height, b.width) for b in buckets], np.int64)
    longest_first = np.lexsort(table.T[::-1])[::-1]
    best, reason = np.empty(len(clips.sizes), np.int64), np.empty(len(clips.sizes), np.int64)
    for start in range(0, len(best), _ROWS):
        part = slice(start, start + _ROWS)
        sizes = clips.sizes[part, None]
        keeps = kept(sizes, table[longest_first], max_crop)
        best[part] = longest_first[keeps.worth.argmax(axis=1)]
        filled = table[longest_first, 0] <= sizes[..., 0]
        reason[part] = filled.any(axis=1).astype(np.int64) + (filled & (keeps.scale <= MAX_UPSCALE)).any(
            axis=1
        )
    keeps = kept(clips.sizes, table[best], max_crop)
    return Choice(np.where(keeps.fits, best, -1), keeps, reason)


@dataclass(frozen=True)
class Totals:
    """What is kept of all clips, as fractions.

    clips: of the clips, those not dropped. pixels: of their frames, one frame a clip. seconds: of their
    duration. pixel_seconds: of pixels x seconds. sizes: the number of different buckets in use.
    """

    clips: float
    pixels: float
    seconds: float
    pixel_seconds: float
    sizes: int


def total(clips: Clips, sizes: Ints) -> Totals:
    """Totals of clips that go to `sizes` (N, 3), in which a 0 says that a clip is dropped."""
    has = sizes.min(axis=1, initial=1) > 0
    keeps = kept(clips.sizes, np.where(has[:, None], sizes, 1), max_crop=1)
    pixels, seconds = keeps.pixels * has, keeps.seconds * has
    area, frames = (clips.sizes[:, 1] * clips.sizes[:, 2]).astype(float), clips.sizes[:, 0]

    def share(kept_share: npt.NDArray, weight: npt.NDArray) -> float:
        return float((kept_share * weight).sum() / max(1, weight.sum()))

    return Totals(
        clips=share(pixels > 0, clips.count),
        pixels=share(pixels, clips.count * area),
        seconds=share(seconds, clips.count * frames),
        pixel_seconds=share(pixels * seconds, clips.count * area * frames),
        sizes=len(np.unique(sizes[has], axis=0)),
    )


def of_table(clips: Clips, buckets: Sequence[VideoSize], max_crop: float) -> Totals:
    """What a table keeps."""
    table = np.array([*((b.n_frames, b.height, b.width) for b in buckets), (0, 0, 0)], np.int64)
    return total(clips, table[assign(clips, buckets, max_crop).bucket])  # the last row for a bucket of -1


def of_near_native(
    clips: Clips, settings: EncodeSettings, patching: Patching, max_tokens: int | None = None
) -> Totals:
    """What the rule of `encode.max_pixels` and `encode.frame_counts` keeps.

    With `max_tokens`, a clip whose size makes more is dropped, as in the encode stage.
    """
    stride = patching.side_px
    sides, which = np.unique(clips.sizes[:, 1:], axis=0, return_inverse=True)
    near = [near_native(w, h, settings.max_pixels, stride) or (0, 0) for h, w in sides.tolist()]
    counts = np.array([0, *settings.frame_counts])
    frames = counts[np.searchsorted(counts, clips.sizes[:, 0], side="right") - 1]
    sizes = np.column_stack([frames, np.array(near, np.int64).reshape(-1, 2)[which.ravel()]])
    tokens = (1 + frames // patching.strides.time) * (sizes[:, 1:] // stride).prod(axis=1)
    return total(clips, np.where((tokens <= (max_tokens or np.inf))[:, None], sizes, 0))


@dataclass(frozen=True)
class Suggestion:
    """A proposed table. toml: it as settings. lines: what it keeps, for a person, and the TOML at the end."""

    buckets: tuple[VideoSize, ...]
    toml: str
    lines: tuple[str, ...]


def suggest(settings: Settings, *, max_tokens: int | None = None, count: int = 12) -> Suggestion:
    """Proposes buckets for the run's clip table, of `max_tokens` or fewer (by default what a pack holds).

    Raises:
        Missing: the clips stage has not been run.
        Mistake: no clip fits a bucket of so few tokens.
    """
    limits = Limits(
        max_tokens=settings.feed.token_budget if max_tokens is None else max_tokens,
        count=count,
        patching=Patching(strides_of(settings.encode), settings.model.patch),
        max_crop=settings.encode.max_crop,
    )
    # With captions from a model, clips that lacked only a caption are usable.
    off = settings.caption.source == "off"
    clips = clips_of(settings.path("clips")) if off else usable(clip_table(settings))
    buckets = tuple(propose(clips, limits))
    toml = to_toml(buckets, limits, settings.feed.token_budget)
    totals = comparison(clips, buckets, limits, settings)
    return Suggestion(buckets, toml, (*table_lines(clips, buckets, limits), "", *totals, "", toml))


def to_toml(buckets: Sequence[VideoSize], limits: Limits, token_budget: int) -> str:
    """The settings that fix a table."""
    rows = [f"    [{b.n_frames}, {b.height}, {b.width}]," for b in buckets]
    lines = ["[encode]", "buckets = [  # frames, height, width", *rows, "]", f"max_crop = {limits.max_crop}"]
    largest = max(limits.patching.n_tokens(bucket) for bucket in buckets)
    if largest > token_budget:
        lines += ["", "[feed]", f"token_budget = {largest}  # a pack has to hold the largest bucket"]
    return "\n".join(lines)


def table_lines(clips: Clips, buckets: Sequence[VideoSize], limits: Limits) -> list[str]:
    """A line for each bucket, and for each reason for which clips are dropped.

    pixels: fraction of its clips' frames kept after crop and scaling. cropped: fraction of the frames' area
    cropped. sides: their scale. seconds: fraction of its clips' duration kept.
    """
    choice = assign(clips, buckets, limits.max_crop)
    n_clips = int(clips.count.sum())
    lines = [
        f"{n_clips:,} clips of {len(clips.sizes):,} sizes; at most {limits.max_tokens:,} tokens a sample",
        f"{'bucket':>14} {'clips':>11} {'share':>6} {'pixels':>7} {'cropped':>8} {'sides':>6} "
        f"{'seconds':>8} {'tokens':>8}",
    ]
    for number, bucket in enumerate(buckets):
        mine = choice.bucket == number
        count, frames = clips.count[mine], clips.count[mine] * clips.sizes[mine, 0]
        area = count * clips.sizes[mine, 1] * clips.sizes[mine, 2].astype(float)
        lines.append(
            f"{bucket!s:>14} {count.sum():>11,} {count.sum() / n_clips:>6.1%} "
            f"{_mean(choice.kept.pixels[mine], area):>7.1%} {1 - _mean(choice.kept.view[mine], count):>8.1%} "
            f"{_mean(np.minimum(choice.kept.scale[mine], 1), count):>6.2f} "
            f"{_mean(choice.kept.seconds[mine], frames):>8.1%} {limits.patching.n_tokens(bucket):>8,}"
        )
    lost = np.bincount(choice.reason, clips.count * (choice.bucket < 0), len(REASONS)).astype(int)
    return lines + [
        f"{'dropped':>14} {n:>11,} {n / n_clips:>6.1%}  {why}"
        for n, why in zip(lost.tolist(), REASONS, strict=True)
        if n
    ]


def _mean(values: Floats, weights: npt.NDArray) -> float:
    return float((values * weights).sum() / weights.sum()) if weights.sum() else 1.0


def comparison(clips: Clips, buckets: Sequence[VideoSize], limits: Limits, settings: Settings) -> list[str]:
    """What the table keeps in total, against one size, the table of the settings and the near-native rule."""
    encode, patching = settings.encode, limits.patching
    single = one_size(clips, limits)
    rows = {
        f"these {len(buckets)} buckets": of_table(clips, buckets, limits.max_crop),
        f"one size, {single}, any crop": of_table(clips, [single], max_crop=1),
    }
    if encode.buckets:
        present = [VideoSize(*bucket) for bucket in encode.buckets]
        rows["encode.buckets as set"] = of_table(clips, present, encode.max_crop)
    rows["near native, within the tokens"] = of_near_native(clips, encode, patching, limits.max_tokens)
    rows["near native, any tokens"] = of_near_native(clips, encode, patching)
    return [
        f"{'kept in total':>34} {'clips':>7} {'pixels':>7} {'seconds':>8} {'both':>7} {'sizes':>7}",
        *(
            f"{name:>34} {t.clips:>7.1%} {t.pixels:>7.1%} {t.seconds:>8.1%} "
            f"{t.pixel_seconds:>7.1%} {t.sizes:>7,}"
            for name, t in rows.items()
        ),
    ]


def one_size(clips: Clips, limits: Limits) -> VideoSize:
    """The best single bucket if any crop is allowed, as in training at one fixed size."""
    return propose(clips, Limits(limits.max_tokens, 1, limits.patching, max_crop=1))[0]
