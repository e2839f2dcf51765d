"""Propose a bucket table from the clip table.

The objective is a mean over clips: the worth of the table's best bucket to the clip (`buckets.kept`, from the
fractions of its pixels and seconds), divided by the worth of the best of all candidates. It is 1 if every
clip has a bucket of its own, also for a 4K clip of which the limit admits a hundredth. A clip's weight is the
fourth root of the most pixel-seconds that any candidate keeps of it. Of a million simulated clips
(jobs/bench/buckets.py) 12 buckets of 32,768 tokens then keep 87 % of the clips and 22.8 % of the
pixel-seconds. By pixel-seconds alone they keep 77 % and 23.1 %: images and small clips hardly count. With
equal weights it is 92 % and 21.1 %: a clip of 32 px decides as much as one of 720p.

Buckets are added one at a time, the one that gains most first; after each, any bucket is exchanged while that
gains (greedy with swaps, as in k-medoids). A table of one more bucket starts from the previous one, so it is
never worth less. Nothing is random: the same clips give the same table.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vitascope import storage
from vitascope.encode.buckets import Floats, Ints, Patching, kept, near_native
from vitascope.errors import Mistake
from vitascope.ledger import Status
from vitascope.records import VideoSize

MAX_BINS = 4096
"""Most bins of clips to search with; with some 5,500 candidates 90 MB, and 15 ms to try them all."""

_SIZE = ("n_frames", "height", "width")
_SIDE_BITS, _FRAME_BITS = 20, 23  # a size in one integer; longer clips count as 2^23 frames
_MAX_ASPECTS, _MAX_SIZES = 24, 64
_WEIGHT = 0.25  # exponent of a clip's pixel-seconds
_SWAPS = 4  # most rounds of exchanges after a bucket; on a million simulated clips 2 found all there was
_ROWS = 128  # of the worth matrix at a time, which stay in the processor's cache


@dataclass(frozen=True)
class Clips:
    """Clips by size. sizes: (N, 3) distinct n_frames, height, width; count: (N,) clips of each."""

    sizes: Ints
    count: Ints


@dataclass(frozen=True)
class Limits:
    """The limits of a proposal."""

    max_tokens: int  # of a sample
    count: int  # buckets, at most
    patching: Patching
    max_crop: float = 0.3

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.count < 1:
            raise Mistake(
                f"give 1 token and 1 bucket or more, got {self.max_tokens} tokens and {self.count} buckets"
            )


def count_sizes(sizes: npt.ArrayLike, count: npt.ArrayLike = 1) -> Clips:
    """Clips from (N, 3) n_frames, height, width with repeats, each counting `count` times; sorted.

    Raises ValueError for sizes below 1, or sides of 2^20 px and more.
    """
    n_frames, height, width = np.asarray(sizes, np.int64).reshape(-1, 3).T
    if len(width) and (
        min(n_frames.min(), height.min(), width.min()) < 1 or max(height.max(), width.max()) >> 20
    ):
        raise ValueError(f"clips have 1 frame and 1 px or more, and sides below {1 << _SIDE_BITS} px")
    n_frames = np.minimum(n_frames, (1 << _FRAME_BITS) - 1)
    packed = (n_frames << 2 * _SIDE_BITS) | (height << _SIDE_BITS) | width
    keys, which = np.unique(packed, return_inverse=True)
    counts = np.bincount(which, np.broadcast_to(count, len(packed)), len(keys)).astype(np.int64)
    mask = (1 << _SIDE_BITS) - 1
    return Clips(np.stack([keys >> 2 * _SIDE_BITS, (keys >> _SIDE_BITS) & mask, keys & mask], axis=1), counts)


def clips_of(uri: str) -> Clips:
    """The usable clips of a clip table, a file or a folder of them; memory is that of one file.

    Raises FileNotFoundError if there is no table.
    """
    files = [f for f in storage.list_files(uri) if f.endswith(".parquet")]
    return merged(usable(storage.read_table(file, [*_SIZE, "status"])) for file in files or [uri])


def usable(table: pa.Table) -> Clips:
    """The usable clips of clips.table.CLIPS."""
    ok = table["status"].to_numpy() == str(Status.OK)
    return count_sizes(np.stack([table[name].to_numpy()[ok] for name in _SIZE], axis=1))


def merged(parts: Iterable[Clips]) -> Clips:
    """All clips of the parts."""
    sizes, count = np.empty((0, 3), np.int64), np.empty(0, np.int64)
    for part in parts:
        whole = count_sizes(np.concatenate([sizes, part.sizes]), np.concatenate([count, part.count]))
        sizes, count = whole.sizes, whole.count
    return Clips(sizes, count)


def propose(clips: Clips, limits: Limits) -> list[VideoSize]:
    """At most `limits.count` buckets, in order of size; fewer if no more would gain anything.

    Sides are whole patches, frames whole latents, tokens at most `limits.max_tokens`.

    Raises:
        Mistake: there is no clip, or none fits any such size.
    """
    if not len(clips.sizes):
        raise Mistake(
            "the run has no usable clip to suggest buckets for; vitascope data shows what was dropped and why"
        )
    binned = _binned(clips)
    tried = candidates(binned, limits)
    worth = worths(binned, tried, limits.max_crop)
    if not worth.any():
        raise Mistake(
            f"none of {clips.count.sum()} usable clips has a bucket of {limits.max_tokens} tokens or fewer; "
            f"allow more tokens, or clips with sides of {limits.patching.side_px} px and more"
        )
    return sorted(VideoSize(*tried[i].tolist()) for i in select(worth, limits.count))


def _binned(clips: Clips) -> Clips:
    """At most MAX_BINS bins of aspect, area and duration, each shown by its commonest size."""
    n_frames, height, width = clips.sizes.T
    features = np.log2(np.stack([width / height, width * height, n_frames]))
    order = np.argsort(-clips.count, kind="stable")  # so the first of a bin is its commonest
    if len(order) <= MAX_BINS:
        return clips
    for per_octave in (64, 45, 32, 23, 16, 11, 8, 6, 4, 3, 2, 1):
        cells = np.floor(features * per_octave + 0.5).astype(np.int64) + (1 << 15)
        keys = (cells[0] << 40) | (cells[1] << 20) | cells[2]
        _, first, inverse = np.unique(keys[order], return_index=True, return_inverse=True)
        if len(first) <= MAX_BINS:
            break
    return Clips(clips.sizes[order[first]], np.bincount(inverse, clips.count[order]).astype(np.int64))


def candidates(clips: Clips, limits: Limits) -> Ints:
    """Sizes within the limits, (C, 3): many durations, near the clips' aspects, of their areas and less."""
    stride, side_px = limits.patching.strides.time, limits.patching.side_px
    frames = _durations(clips, stride)
    budget_px = side_px**2 * (limits.max_tokens // (1 + frames // stride))  # area that uses up the limit
    areas = np.unique(
        np.concatenate([budget_px, _quantiles(clips.sizes[:, 1] * clips.sizes[:, 2], clips.count)])
    )
    commonest = clips.sizes[np.argsort(-clips.count, kind="stable"), 1:]
    log_aspects = np.floor(np.log2(commonest[:, 1] / commonest[:, 0]) * 12 + 0.5)
    aspects = commonest[np.sort(np.unique(log_aspects, return_index=True)[1])[:_MAX_ASPECTS]]
    # Aspects come as sizes enlarged, as `near_native` never enlarges.
    wanted = [(64 * h, 64 * w, area) for h, w in aspects.tolist() for area in areas.tolist()]
    wanted += [(h, w, h * w) for h, w in commonest[:_MAX_SIZES].tolist()]
    near = {near_native(w, h, area, side_px) for h, w, area in wanted}
    sizes = [VideoSize(n, *side) for side in sorted(side for side in near if side) for n in frames.tolist()]
    within = [size for size in sizes if limits.patching.n_tokens(size) <= limits.max_tokens]
    return np.array([(s.n_frames, s.height, s.width) for s in within], np.int64).reshape(-1, 3)


def _durations(clips: Clips, stride: int) -> Ints:
    """Frame counts to try: the clips' own, rounded down to whole latents; below, a ladder of steps of 1.4."""
    own = 1 + (_quantiles(clips.sizes[:, 0], clips.count) - 1) // stride * stride
    ladder = 1 + (1.4 ** np.arange(48)).astype(np.int64) // stride * stride
    return np.unique(np.concatenate([own, ladder[ladder <= own.max(initial=0)]]))


def _quantiles(values: Ints, count: Ints, n: int = 12) -> Ints:
    """At most `n` of the values, from the least to the greatest, with equal numbers of clips between."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(count[order])
    wanted = np.linspace(0, reached[-1:].sum(), n)
    return np.unique(values[order[np.minimum(np.searchsorted(reached, wanted), len(order) - 1)]])


def worths(clips: Clips, tried: Ints, max_crop: float) -> npt.NDArray[np.float32]:
    """(B, C): a bin's fraction of the weight, times a candidate's worth to it over the best one's."""
    worth = np.empty((len(clips.sizes), len(tried)), np.float32)
    share = clips.count / max(1, clips.count.sum())
    for start in range(0, len(worth), _ROWS):
        rows = slice(start, start + _ROWS)
        keeps = kept(clips.sizes[rows, None], tried, max_crop)
        best = keeps.worth.max(axis=1, initial=0, keepdims=True)
        volume = clips.sizes[rows].prod(axis=1, dtype=np.float64)[:, None] * keeps.pixels * keeps.seconds
        weight = (volume * keeps.fits).max(axis=1, initial=0, keepdims=True) ** _WEIGHT
        worth[rows] = share[rows, None] * weight * keeps.worth / np.where(best, best, 1)
    worth /= max(1e-30, worth.max(axis=1, initial=0).sum())
    return worth


def select(worth: npt.NDArray[np.float32], count: int) -> list[int]:
    """Columns that together hold the most: the sum over rows of the largest value in them."""
    chosen: list[int] = []
    while len(chosen) < count:
        best, gain = _best_beside(worth, chosen)
        if gain <= 1e-6:
            break
        chosen.append(best)
        for _ in range(_SWAPS):
            if not _swap(worth, chosen):
                break
    return chosen


def _swap(worth: npt.NDArray[np.float32], chosen: list[int]) -> bool:
    """Exchanges each of `chosen`, in place, for what gains more next to the others; whether it did."""
    swapped = False
    for i, old in enumerate(chosen):
        others = chosen[:i] + chosen[i + 1 :]
        best, gain = _best_beside(worth, others)
        held = worth[:, others].max(axis=1, initial=0)
        if gain > np.maximum(worth[:, old] - held, 0).sum(dtype=np.float64) + 1e-6:
            chosen[i], swapped = best, True
    return swapped


def _best_beside(worth: npt.NDArray[np.float32], chosen: list[int]) -> tuple[int, float]:
    """The column that gains most next to `chosen`, the first of equals, and its gain."""
    held = worth[:, chosen].max(axis=1, initial=0, keepdims=True)
    gain: Floats = np.zeros(worth.shape[1])
    for start in range(0, len(worth), _ROWS):
        rows = slice(start, start + _ROWS)
        gain += np.maximum(worth[rows] - held[rows], 0).sum(axis=0)
    best = int(gain.argmax())
    return best, float(gain[best])
