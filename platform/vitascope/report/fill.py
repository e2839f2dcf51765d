"""What buckets hold of the clips, and what is lost."""

from dataclasses import dataclass

import numpy as np

from vitascope.encode.buckets import Limits, kept, sizes_of
from vitascope.ledger import Rejected
from vitascope.records import VideoSize
from vitascope.report.dataset import Dataset, Floats, Ints


@dataclass(frozen=True, eq=False)
class Samples:
    """Each sample's clip (N,), a row of the clips table, its bucket (N, 3) in pixels and its tokens (N,).

    unfit: clips without a bucket. planned: whether they are only what the settings would give, as the
    encode stage has not been run.
    """

    clip: Ints
    bucket: Ints
    tokens: Ints
    unfit: int
    planned: bool


@dataclass(frozen=True)
class Fill:
    """A bucket: its samples and tokens, and what it keeps of its clips, in shares of 1 (`buckets.Kept`).

    pixels: of their frames. view: of the frames' area in sight, after the crop. side: of their sides, 1 if
    nothing is scaled down. seconds: of their time.
    """

    bucket: str
    samples: int
    tokens: int
    pixels: float
    view: float
    side: float
    seconds: float


def samples_of(data: Dataset) -> Samples:
    """The samples that there are, or that the settings plan."""
    if data.encoded:
        known = data.clip_of_sample >= 0
        columns = (data.samples[name].to_numpy() for name in ("n_frames", "height", "width"))
        bucket = np.stack(list(columns), axis=1).astype(np.int64)
        return Samples(data.clip_of_sample[known], bucket[known], data.tokens[known], 0, planned=False)
    clip = np.flatnonzero(data.good)
    sizes, which = np.unique(data.sizes[clip], axis=0, return_inverse=True)
    plans = [_planned(size, data) for size in sizes.tolist()]
    rows = np.array([row for plan in plans for row in plan], np.int64).reshape(-1, 4)
    n_of_size = np.array([len(plan) for plan in plans], np.int64)
    n, first = n_of_size[which.ravel()], (np.cumsum(n_of_size) - n_of_size)[which.ravel()]
    rows = rows[np.repeat(first, n) + np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)]
    return Samples(np.repeat(clip, n), rows[:, :3], rows[:, 3], int((n == 0).sum()), planned=True)


def _planned(size: list[int], data: Dataset) -> list[tuple[int, int, int, int]]:
    """The buckets of a size of clips, with the tokens of each."""
    outcomes = sizes_of(VideoSize(*size), data.settings.encode, Limits.of(data.settings))
    made = (outcome for outcome in outcomes if not isinstance(outcome, Rejected))
    return [(b.n_frames, b.height, b.width, n_tokens) for b, n_tokens in made]


def fills(data: Dataset, samples: Samples) -> list[Fill]:
    """Every bucket in use, the one with most tokens first, and all of them together as the last."""
    if not len(samples.clip):
        return []
    sizes = data.sizes[samples.clip]
    keeps = kept(sizes, samples.bucket, max_crop=1)
    parts = (keeps.pixels, keeps.view, np.minimum(keeps.scale, 1), keeps.seconds)
    weights = (_area(sizes), np.ones(len(sizes)), np.ones(len(sizes)), sizes[:, 0].astype(float))
    buckets, which = np.unique(samples.bucket, axis=0, return_inverse=True)
    which = which.ravel()

    def row(name: str, mine: Ints | slice) -> Fill:
        means = (float(np.average(p[mine], weights=w[mine])) for p, w in zip(parts, weights, strict=True))
        return Fill(name, len(which[mine]), int(samples.tokens[mine].sum()), *means)

    order = np.argsort(which, kind="stable")
    runs = np.split(order, np.cumsum(np.bincount(which))[:-1])
    each = [row(str(VideoSize(*bucket)), run) for bucket, run in zip(buckets.tolist(), runs, strict=True)]
    return [*sorted(each, key=lambda fill: -fill.tokens), row("all", slice(None))]


def _area(sizes: Ints) -> Floats:
    return (sizes[:, 1] * sizes[:, 2]).astype(np.float64)
