"""An epoch cut into windows, which are planned one by one.

An epoch's shards are shuffled and cut into windows of whole steps. Costly samples (see
`vitascope.feed.costly`) form steps across windows: over a region, as many windows as hold about one window's
number of them. Each window takes its part of its region's steps of costly samples, and all other samples of
its shards. Memory is bounded by the window, in addition to the index and 40 bytes a shard.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from vitascope.feed.costly import costly_packs
from vitascope.feed.lengths import Floats, Ints, Lengths
from vitascope.feed.packing import water_level
from vitascope.records import stable_int

# Windows are cut to whole steps of packs this full. Room for 3 % of the tokens lets the costs be levelled: at
# 99 % the ranks' costs differed by up to 10x more, and idle ranks cost time, room does not.
_FILL = 0.97
_LEAST_STEPS = 4  # of a window: with fewer, one could hold no sample at all
_JITTER = 0.1  # sizes that differ by less than a tenth change places from epoch to epoch


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of every epoch.

    Args:
        cost_limit: samples that cost more cannot be levelled with others. The rest: see the planner.
    """

    lengths: Lengths
    seed: int
    token_budget: int
    packs_per_step: int
    window_samples: int
    cost_limit: float

    def count(self, epoch: int) -> int:
        """The number of windows of the epoch, 1 or more."""
        return int(_epoch(self, epoch).windows[-1])

    def content(self, epoch: int, number: int) -> "Content":
        """The samples of a window."""
        firsts = _epoch(self, epoch).windows
        at = int(np.searchsorted(firsts, number, side="right")) - 1
        region, index = _region(self, epoch, at), number - int(firsts[at])
        first, end = region.rows[index : index + 2] * self.packs_per_step
        part = slice(*np.searchsorted(region.packs, (first, end)))
        others = self._others(region, index)
        tokens = self.lengths.tokens[others]
        noise = random_numbers(len(others) + 1, "samples", self.seed, epoch, number)
        # Samples of one size stay together, in random order, so that each step gets its part of them.
        nudge = _JITTER * _unit(_scrambled(tokens.astype(np.uint64) ^ noise[-1])) + 1e-6 * _unit(noise[:-1])
        order = np.argsort(tokens * (-1 - nudge), kind="stable")
        return Content(region.costly[part], region.packs[part] - first, int(end - first), others[order])

    def _others(self, region: "_Region", index: int) -> npt.NDArray[np.int64]:
        """(n,) the samples of a window that are not costly, by shard."""
        (begin, skip), (end, last) = region.cuts[index], region.cuts[index + 1]
        samples = self.lengths.between(region.shards[begin : end + bool(last)], skip, last or None)
        return samples[~self.is_costly(samples)]

    def is_costly(self, samples: Ints | slice) -> npt.NDArray[np.bool_]:
        """(n,) whether samples, by their numbers, cannot be levelled with others."""
        return self.lengths.costs[samples] > self.cost_limit

    @property
    def n_costly(self) -> int:
        """The number of costly samples in an epoch."""
        return int(self.shards.costly.sum())

    @cached_property
    def costly_alone(self) -> bool:
        """Whether the packs suffice for each costly sample to have its own, filled up with others."""
        n_steps = -(-int(self.lengths.shard_tokens.sum()) // (self.token_budget * self.packs_per_step))
        return self.n_costly <= n_steps * self.packs_per_step

    @cached_property
    def shards(self) -> "_Shards":
        """The contents of each shard."""
        tokens = self.lengths.tokens
        return _Shards(
            self.lengths.sums_by_shard(self.is_costly),
            self.lengths.sums_by_shard(lambda part: np.where(self.is_costly(part), 0, tokens[part])),
        )


@dataclass(frozen=True, eq=False)
class Content:
    """The samples of a window, by their numbers.

    costly: (h,) those that cannot be levelled. packs: (h,) the pack of each, below n_packs, which are whole
    steps. others: (n,) the rest, about the largest first.
    """

    costly: npt.NDArray[np.int64]
    packs: npt.NDArray[np.int64]
    n_packs: int
    others: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Shards:
    """The contents of each shard: costly samples, and tokens of the others; (shards,) each."""

    costly: npt.NDArray[np.int64]
    other_tokens: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Epoch:
    """An epoch's order of shards, and (R + 1,) each region's start in it and its first window."""

    order: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Region:
    """The contents of a region's windows.

    shards: in the epoch's order. costly, packs: (H,) costly samples and the pack of each, G per step. rows:
    (W + 1,) the first of each window's steps of them. cuts: (W + 1, 2) where its other samples begin, a
    position in `shards` and how many samples of that shard are before.
    """

    shards: npt.NDArray[np.int64]
    costly: npt.NDArray[np.int64]
    packs: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int64]


@lru_cache(maxsize=2)
def _epoch(windows: Windows, epoch: int) -> _Epoch:
    """Cuts regions between shards, with about as many costly samples each, a window's number at most."""
    lengths, many = windows.lengths, max(windows.window_samples, _LEAST_STEPS * windows.packs_per_step)
    order = np.argsort(random_numbers(lengths.n_shards, "shards", windows.seed, epoch), kind="stable")
    costly = np.cumsum(windows.shards.costly[order])
    n_regions = min(max(1, -(-int(costly[-1]) // many)), lengths.n_shards)
    cuts = np.searchsorted(costly, np.arange(1, n_regions) * costly[-1] // n_regions, side="right")
    begins = np.unique(np.concatenate([[0], cuts, [lengths.n_shards]]))
    n_samples, n_tokens = (
        np.add.reduceat(values[order], begins[:-1])
        for values in (np.diff(lengths.shard_offsets), lengths.shard_tokens)
    )
    n_steps = n_tokens / (_FILL * windows.token_budget * windows.packs_per_step)
    wanted = np.round(n_samples / windows.window_samples)
    counts = np.maximum(1, np.minimum(wanted, n_steps // _LEAST_STEPS))
    return _Epoch(order, begins, np.concatenate([[0], np.cumsum(counts.astype(np.int64))]))


@lru_cache(maxsize=2)
def _region(windows: Windows, epoch: int, number: int) -> _Region:
    """Spreads the steps of costly samples and the other samples over the region's windows.

    Windows are cut at whole steps: one of 2.1 steps would need 3.
    """
    whole = _epoch(windows, epoch)
    shards = whole.order[whole.begins[number] : whole.begins[number + 1]]
    costly, packs = _costly_steps(windows, shards, (windows.seed, epoch, number))
    held = np.bincount(packs // windows.packs_per_step, windows.lengths.tokens[costly])
    before = np.cumsum(windows.shards.other_tokens[shards])
    n_steps = steps_for(held, int(before[-1]), _FILL * windows.token_budget * windows.packs_per_step)
    level = water_level(np.sort(held), float(before[-1]), empty=n_steps - len(held))
    parts = np.arange(whole.windows[number + 1] - whole.windows[number] + 1)
    rows, steps = (parts * n // parts[-1] for n in (len(held), n_steps))
    taken = np.concatenate([[0.0], np.cumsum(np.maximum(level - held, 0))])[rows] + level * (steps - rows)
    taken = np.maximum.accumulate(taken)
    targets = taken[1:-1] * (before[-1] / max(taken[-1], 1e-9))
    cuts = [_cut(windows, shards, before, target) for target in targets]
    return _Region(shards, costly, packs, rows, np.array([(0, 0), *cuts, (len(shards), 0)]))


def _costly_steps(
    windows: Windows, shards: Ints, key: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(H,) costly samples of `shards` and (H,) their packs: alike in a step, the steps in random order."""
    lengths, n_packs = windows.lengths, windows.packs_per_step
    holding = shards[windows.shards.costly[shards] > 0]
    parts = (lengths.between(part) for part in lengths.shard_blocks(holding))
    samples = np.concatenate([np.zeros(0, np.int64), *(part[windows.is_costly(part)] for part in parts)])
    packs = costly_packs(
        lengths.tokens[samples],
        lengths.costs[samples],
        _unit(random_numbers(len(samples), "costly", *key)),
        token_budget=windows.token_budget,
        alone=windows.costly_alone,
    )
    steps = packs // n_packs
    turn = np.argsort(random_numbers(steps.max(initial=-1) + 1, "costly steps", *key), kind="stable")
    packs = turn[steps] * n_packs + packs % n_packs
    order = np.argsort(packs, kind="stable")
    return samples[order], packs[order]


def _cut(windows: Windows, shards: Ints, before: Ints, target: float) -> tuple[int, int]:
    """A position in `shards` and samples of that shard, with `target` tokens of others before it."""
    at = min(int(np.searchsorted(before, target)), len(shards) - 1)
    samples = windows.lengths.between(shards[at : at + 1])
    tokens = np.where(windows.is_costly(samples), 0, windows.lengths.tokens[samples])
    missing = target - (before[at] - tokens.sum())
    return at, int(np.searchsorted(np.cumsum(tokens), missing, side="right"))


def steps_for(held: Ints | Floats, tokens: int, full: float) -> int:
    """Steps that hold `tokens` on top of the (Q,) already held, each up to `full`, if samples were sand."""
    room = np.maximum(full - held, 0).sum()
    return len(held) + max(0, int(np.ceil((tokens - room) / full)))


def random_numbers(n: int, *key: object) -> npt.NDArray[np.uint64]:
    """(n,) random 64-bit numbers from the key alone; raw ones, whose stream numpy never changes."""
    return np.random.Philox(key=stable_int("plan", *key)).random_raw(n)


def _scrambled(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """(n,) a random-looking number for each number, the same for equal ones (the finaliser of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _unit(numbers: npt.NDArray[np.uint64]) -> Floats:
    """(n,) 64-bit numbers as fractions of 1."""
    return numbers / 2.0**64
