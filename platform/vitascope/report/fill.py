"""How clips fill buckets, and samples packs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vitascope.config import Settings
from vitascope.encode import buckets
from vitascope.encode.buckets import kept
from vitascope.encode.fingerprint import latents_folder
from vitascope.feed.plan import ranks_share
from vitascope.feed.source import Source, planned
from vitascope.ledger import Rejected
from vitascope.model import flow
from vitascope.model.cost import Cost
from vitascope.records import VideoSize
from vitascope.report.dataset import Dataset, Floats, Ints, sizes_of


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


def samples_of(data: Dataset) -> Samples:
    """The samples in the index; without one, those that the encode stage would make."""
    if data.encoded:
        known = data.clip_of_sample >= 0
        bucket = sizes_of(data.samples)
        return Samples(data.clip_of_sample[known], bucket[known], data.tokens[known], 0, planned=False)
    clip = np.flatnonzero(data.good)
    sizes, which = np.unique(data.sizes[clip], axis=0, return_inverse=True)
    plans = [_planned(size, data) for size in sizes.tolist()]
    n_of_size = np.array([len(plan) for plan in plans], np.int64)
    begin = np.cumsum(n_of_size) - n_of_size
    n = n_of_size[which.ravel()]
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    rows = np.array([row for plan in plans for row in plan], np.int64).reshape(-1, 4)
    rows = rows[np.repeat(begin[which.ravel()], n) + within]
    return Samples(np.repeat(clip, n), rows[:, :3], rows[:, 3], int((n == 0).sum()), planned=True)


def _planned(size: list[int], data: Dataset) -> list[tuple[int, int, int, int]]:
    """Frames, height, width and tokens of each sample that the encode stage would make of clips of a size."""
    outcomes = buckets.sizes_of(VideoSize(*size), data.settings.encode, buckets.Limits.of(data.settings))
    made = (outcome for outcome in outcomes if not isinstance(outcome, Rejected))
    return [(bucket.n_frames, bucket.height, bucket.width, n_tokens) for bucket, n_tokens in made]


@dataclass(frozen=True)
class Fill:
    """A bucket: its samples and tokens, and what it keeps of its clips, in fractions (`buckets.Kept`).

    pixels: of their frames. view: of the frames' area in sight, after the crop. side: of their sides, 1 if
    nothing is scaled down. seconds: of their duration.
    """

    bucket: str
    samples: int
    tokens: int
    pixels: float
    view: float
    side: float
    seconds: float


def fills(data: Dataset, samples: Samples) -> list[Fill]:
    """All buckets together, then every one in use, that with most tokens first; none without samples."""
    if not len(samples.clip):
        return []
    sizes = data.sizes[samples.clip]
    keeps = kept(sizes, samples.bucket, max_crop=1)
    parts = (keeps.pixels, keeps.view, np.minimum(keeps.scale, 1), keeps.seconds)
    area, equal = np.prod(sizes[:, 1:], axis=1, dtype=np.float64), np.ones(len(sizes))
    weights: tuple[Floats, ...] = (area, equal, equal, sizes[:, 0].astype(float))

    def row(name: str, mine: Ints) -> Fill:
        means = (float(np.average(p[mine], weights=w[mine])) for p, w in zip(parts, weights, strict=True))
        return Fill(name, len(mine), int(samples.tokens[mine].sum()), *means)

    each = [row(str(bucket), mine) for bucket, mine in _by_bucket(samples.bucket)]
    return [row("all", np.arange(len(sizes))), *sorted(each, key=lambda fill: -fill.tokens)]


def _by_bucket(bucket: Ints) -> Iterator[tuple[VideoSize, Ints]]:
    """Each distinct row of (N, 3), and which rows are the same."""
    distinct, which = np.unique(bucket, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    runs = np.split(order, np.cumsum(np.bincount(which.ravel()))[:-1])
    return zip((VideoSize(*size) for size in distinct.tolist()), runs, strict=True)


@dataclass(frozen=True, eq=False)
class Packing:
    """The first steps of a run: tokens of each pack (S, G), cost of each rank's packs (S, R)."""

    tokens: np.ndarray
    rank_costs: np.ndarray
    budget: int

    @property
    def full(self) -> float:
        """The fraction of the budget that the packs use."""
        return float(self.tokens.mean() / self.budget)


def packing(settings: Settings, patch: int, cost: Cost, most_steps: int = 120) -> Packing:
    """The first steps, planned as training plans them.

    Raises:
        Missing, Mistake: as `feed.source.planned` does, if no sample is to train on or one is too large.
    """
    feed, ranks = settings.feed, settings.train.ranks
    source = Source(
        latents=latents_folder(settings),
        split="train",
        patch=patch,
        seed=settings.run.seed,
        token_budget=feed.token_budget,
        packs_per_step=feed.packs_per_step,
        window_samples=feed.window_samples,
        cost=cost.of,
        draws=flow.Probe(settings.evaluate.timesteps),  # no plan depends on it
    )
    most = min(most_steps, settings.train.steps)
    steps = [plan for _, plan in islice(planned(source).planner.walk(), most)]
    of_ranks = [ranks_share(feed.packs_per_step, ranks, rank) for rank in range(ranks)]
    costs = [[sum(plan.costs[n] for n in packs if n >= 0) for packs in of_ranks] for plan in steps]
    return Packing(np.stack([plan.tokens for plan in steps]), np.array(costs), feed.token_budget)
