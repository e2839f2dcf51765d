"""How the values of a column are spread."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vitascope.clips.filters import beyond
from vitascope.report.dataset import Bools, Floats, Ints

QUANTILES = (0.01, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
_SHOWN = (0.005, 0.995)  # quantiles where a histogram ends; its outer bins hold what lies beyond
_LOG = 50.0  # values that differ by more are shown on a logarithmic scale, zeros with the least of them
_WIDE = {
    "32:9": 32 / 9,
    "21:9": 64 / 27,
    "2:1": 2.0,
    "16:9": 16 / 9,
    "3:2": 3 / 2,
    "4:3": 4 / 3,
    "5:4": 5 / 4,
}
_ASPECTS = _WIDE | {"1:1": 1.0} | {":".join(n.split(":")[::-1]): 1 / aspect for n, aspect in _WIDE.items()}
_SAME_ASPECT = 0.03
_TOWERS = 40.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """edges: (bins + 1,), rising. counts: (bins,) all values. kept: (bins,) those of items that are kept."""

    edges: Floats
    counts: Ints
    kept: Ints
    log: bool

    @property
    def is_spiky(self) -> bool:
        """Whether a few bins tower over others that would not be seen next to them."""
        some = self.counts[self.counts > 0]
        return len(some) < len(self.counts) / 2 and bool(some.max() > _TOWERS * some.min())


def histogram(values: Floats, kept: Bools, limits: Mapping[str, float], n_bins: int = 48) -> Histogram | None:
    """Bins that hold every value which is a number, and all limits; None without a value."""
    finite = np.isfinite(values)
    if not finite.any():
        return None
    values, kept = values[finite], kept[finite]
    positive = values[values > 0]
    log = 2 * len(positive) > len(values) and values.min() >= 0
    ends = np.quantile(positive if log else values, _SHOWN)
    log = bool(log and ends[1] > _LOG * ends[0])
    if not log:
        ends = np.quantile(values, _SHOWN)
    ends = np.r_[ends, [limit for limit in limits.values() if limit > 0 or not log]]
    low, high = float(ends.min()), float(ends.max())
    if low == high:
        low, high = low - abs(low) / 20 - 0.05, high + abs(high) / 20 + 0.05
    edges = np.geomspace(low, high, n_bins + 1) if log else np.linspace(low, high, n_bins + 1)
    inside = np.clip(values, edges[0], edges[-1])
    return Histogram(edges, np.histogram(inside, edges)[0], np.histogram(inside[kept], edges)[0], log)


@dataclass(frozen=True)
class Example:
    """A row to look at, and why: `1 %`, `10–50 %`, `below min`."""

    label: str
    row: int


def examples(values: Floats, limits: Mapping[str, float]) -> list[Example]:
    """Rows at the quantiles, and the nearest on either side of each limit that drops any; by rising value.

    What has the same value shares an example.
    """
    order = np.argsort(values, kind="stable")  # NaN last
    rising = values[order[: np.isfinite(values).sum()]]
    if not len(rising):
        return []
    percents = 100 * np.array(QUANTILES)
    places = np.round(percents / 100 * (len(rising) - 1)).astype(int)
    at: dict[float, tuple[int, list[str]]] = {}
    for value in np.unique(rising[places]).tolist():
        same = percents[rising[places] == value]
        label = f"{same[0]:g} %" if len(same) == 1 else f"{same[0]:g}–{same[-1]:g} %"
        at[value] = int(places[rising[places] == value][0]), [label]
    for name, limit in limits.items():
        n_out = int(beyond(rising, {name: limit}).sum())
        edge = n_out if name == "min" else len(rising) - n_out
        if 0 < edge < len(rising):
            for place, side in ((edge - 1, "below"), (edge, "above")):
                at.setdefault(float(rising[place]), (place, []))[1].append(f"{side} {name}")
    return [Example(", ".join(words), int(order[place])) for place, words in sorted(at.values())]


def spaced(rows: Ints, count: int) -> list[int]:
    """At most `count` of the rows, at even distances."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))].tolist()


def aspects(width: Floats, height: Floats) -> dict[str, int]:
    """How many frames have which ratio of width to height: the nearest of the usual ones, within 3 %."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(width / height)
    ratio = ratio[np.isfinite(ratio)]
    names = [*_ASPECTS, "other, wide", "other, upright"]
    away = np.abs(ratio[:, None] - np.log(list(_ASPECTS.values())))
    nearest = np.where(
        away.min(axis=1, initial=np.inf) <= np.log1p(_SAME_ASPECT),
        away.argmin(axis=1),
        len(_ASPECTS) + (ratio < 0),
    )
    counts = np.bincount(nearest, minlength=len(names))
    return {names[i]: int(counts[i]) for i in np.argsort(-counts, kind="stable") if counts[i]}


def share(part: float, whole: float) -> float:
    """part / whole, 0 of nothing."""
    return part / whole if whole else 0.0


def of(part: int, whole: int) -> str:
    """`3 of 12 (25.00%)`."""
    return f"{part:,} of {whole:,} ({share(part, whole):.2%})"
