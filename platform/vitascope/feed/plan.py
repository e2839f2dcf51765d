"""The epoch's steps, from lengths alone.

In: an index's arrays (shard, tokens and cost of each sample). Out: for every global step its packs, each a
list of samples. All of it follows from (index, seed, epoch, token budget, packs per step), so any process can
work out any step by itself, on any number of ranks, and the position of a run is three integers.

An epoch's shards are shuffled and cut into windows; a window is planned on its own, from its number. Every
step gets the window's mix of sizes, except for samples that cost more than a pack of that mix: they go into
steps of their kind, one in each pack, filled up with the window's others (see `vitascope.feed.costly`). Those
steps are grouped over a region, which is as many windows as hold about a window's number of costly samples,
and spread evenly over its windows. Memory is bounded by the window, beside the index and 40 bytes a shard.

The plan uses only the raw numbers of the Philox generator, stable sorts and sums in a fixed order, so it is
the same on every machine and with every numpy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vitascope.feed.costly import cost_limit, costly_packs
from vitascope.feed.lengths import Floats, Ints, Lengths
from vitascope.feed.packing import pack, water_level
from vitascope.records import stable_int

PLAN = 2
"""Names the rule by which samples become steps: a checkpoint's position means nothing under another."""

NO_PACK = -1
"""Stands for an empty pack if the ranks do not divide a step's packs."""

# Windows are cut to whole steps of packs this full. Room for 3 % of the tokens is what lets the costs be
# levelled: at 99 % the ranks' costs differed by up to 10x more, and idle ranks cost time, room does not.
_FILL = 0.97
_FULLEST = 0.975  # of a window, which is cut between samples and so not quite at _FILL
_FEWER = 1.05  # windows that need more steps than this times the fewest are packed as full as they can be
_LEAST_STEPS = 4  # of a window: with fewer, one could hold no sample at all
_JITTER = 0.1  # sizes that differ by less than a tenth change places from epoch to epoch


@dataclass(frozen=True, order=True)
class Position:
    """Where a run stands: the next step to compute."""

    epoch: int = 0
    window: int = 0
    step: int = 0


START = Position()
"""The first step of a run."""


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A global step: G packs, the costliest first, some empty where samples are few.

    Args:
        packs: G arrays of sample numbers (rows of the index).
        tokens: (G,) tokens of each pack.
        costs: (G,) cost of each pack.
    """

    packs: tuple[npt.NDArray[np.int64], ...]
    tokens: npt.NDArray[np.int64]
    costs: Floats


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The steps of a window.

    Args:
        samples: (n,) sample numbers (rows of the index), step by step and pack by pack.
        offsets: (S * G + 1,) where each pack's samples begin.
        tokens: (S, G) tokens of each pack.
        costs: (S, G) cost of each pack, descending along a step.
    """

    samples: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    costs: Floats

    @property
    def n_steps(self) -> int:
        """Steps in this window."""
        return len(self.tokens)

    def step(self, number: int) -> StepPlan:
        """One step of the window, 0 <= number < n_steps."""
        n_packs = self.tokens.shape[1]
        cuts = self.offsets[number * n_packs : (number + 1) * n_packs + 1]
        packs = tuple(self.samples[a:b] for a, b in pairwise(cuts))
        return StepPlan(packs, self.tokens[number], self.costs[number])


@dataclass(frozen=True, eq=False)
class Planner:
    """Plans any step of any epoch; cheap to copy to another process.

    Args:
        lengths: the index's arrays.
        seed: with the epoch, decides the order of shards and which samples meet in a step.
        token_budget: most tokens in a pack.
        packs_per_step: packs in a global step, G, whatever the number of ranks.
        window_samples: about so many samples are planned together, and at least 4 steps.

    Raises:
        ValueError: naming a sample that is larger than the budget, or the setting that is out of range.
    """

    lengths: Lengths
    seed: int
    token_budget: int
    packs_per_step: int
    window_samples: int

    def __post_init__(self) -> None:
        for name in ("token_budget", "packs_per_step", "window_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        largest = int(self.lengths.tokens.argmax())
        n_tokens = int(self.lengths.tokens[largest])
        if n_tokens > self.token_budget:
            raise ValueError(
                f"sample number {largest} has {n_tokens} tokens, more than the budget of "
                f"{self.token_budget}: set feed.token_budget to that or more, or encode at smaller sizes"
            )

    @cached_property
    def limit(self) -> float:
        """The excess beyond which a sample is costly; infinite if nobody waits for a step's only pack."""
        return cost_limit(self.lengths, token_budget=self.token_budget, packs_per_step=self.packs_per_step)

    def is_costly(self, samples: Ints | slice) -> npt.NDArray[np.bool_]:
        """(n,) whether samples, by their numbers, cannot be levelled with others."""
        return self.lengths.costs[samples] > self.limit

    @cached_property
    def costly_alone(self) -> bool:
        """Whether there is a pack for each costly sample."""
        n_packs = int(self.lengths.shard_tokens.sum()) / self.token_budget
        return int(self.shards.costly.sum()) <= n_packs

    @cached_property
    def shards(self) -> "_Shards":
        """What each shard holds."""
        lengths = self.lengths
        found = []
        for part in lengths.shard_blocks():
            begins = lengths.shard_offsets[part]
            samples = slice(int(begins[0]), int(lengths.shard_offsets[part[-1] + 1]))
            costly = self.is_costly(samples)
            others = np.where(costly, 0, lengths.tokens[samples])
            found.append(
                [np.add.reduceat(v, begins - begins[0], dtype=np.int64) for v in (costly, others)]
            )
        return _Shards(*np.concatenate(found, axis=1))

    def windows(self, epoch: int) -> int:
        """How many windows the epoch has, 1 or more."""
        return int(_epoch(self, epoch).windows[-1])

    def window(self, epoch: int, number: int) -> WindowPlan:
        """The plan of a window; the last few are remembered.

        Raises:
            ValueError: where the epoch has no such window.
        """
        if epoch < 0 or not 0 <= number < self.windows(epoch):
            raise ValueError(f"no window {number} in epoch {epoch}: it has {self.windows(max(epoch, 0))}")
        return _window(self, epoch, number)

    def step(self, position: Position) -> StepPlan:
        """The step at a position.

        Raises:
            ValueError: where the window has no such step.
        """
        window = self.window(position.epoch, position.window)
        if not 0 <= position.step < window.n_steps:
            raise ValueError(f"no step {position.step} at {position}: the window has {window.n_steps} steps")
        return window.step(position.step)

    def walk(self, start: Position = START) -> Iterator[tuple[Position, StepPlan]]:
        """All steps from `start` on, epoch after epoch, without end, each with its position."""
        position = start
        while True:
            yield position, self.step(position)
            position = self.after(position)

    def after(self, position: Position) -> Position:
        """The position that follows."""
        if position.step + 1 < self.window(position.epoch, position.window).n_steps:
            return Position(position.epoch, position.window, position.step + 1)
        if position.window + 1 < self.windows(position.epoch):
            return Position(position.epoch, position.window + 1)
        return Position(position.epoch + 1)

    def steps_in_epoch(self, epoch: int) -> int:
        """Steps of an epoch; plans every window once."""
        return sum(_n_steps(self, epoch, window) for window in range(self.windows(epoch)))

    def advice(self) -> str | None:
        """In words, what budget would let the packs be equal; None where they can be."""
        least = equal_cost_budget(self.lengths.tokens, self.lengths.costs)
        if least <= self.token_budget:
            return None
        return (
            f"packs of {self.token_budget} tokens cannot all cost as much as one with the costliest sample, "
            f"so ranks will wait for it: set feed.token_budget to about {least}, or encode at smaller sizes"
        )


@dataclass(frozen=True, eq=False)
class _Shards:
    """What each shard holds: costly samples, and tokens of the others; (shards,) each."""

    costly: npt.NDArray[np.int64]
    other_tokens: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Epoch:
    """An epoch's order of shards, and (R + 1,) where its regions begin in it and which windows are theirs."""

    order: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Region:
    """What the windows of a region take.

    shards: in the epoch's order. costly, packs: (H,) costly samples and the pack of each, G a step. rows:
    (W + 1,) the first of each window's steps of them. cuts: (W + 1, 2) where its other samples begin, a
    position in `shards` and how many samples of that shard are before.
    """

    shards: npt.NDArray[np.int64]
    costly: npt.NDArray[np.int64]
    packs: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int64]


@lru_cache(maxsize=2)
def _epoch(planner: Planner, epoch: int) -> _Epoch:
    """Cuts between shards, so that regions hold about as many costly samples each, a window's number at most."""
    lengths, many = planner.lengths, planner.window_samples
    order = np.argsort(_random(lengths.n_shards, "shards", planner.seed, epoch), kind="stable")
    costly = np.cumsum(planner.shards.costly[order])
    n_regions = min(max(1, -(-int(costly[-1]) // many)), lengths.n_shards)
    cuts = np.searchsorted(costly, np.arange(1, n_regions) * costly[-1] // n_regions, side="right")
    begins = np.unique(np.concatenate([[0], cuts, [lengths.n_shards]]))
    n_samples, n_tokens = (
        np.add.reduceat(values[order], begins[:-1])
        for values in (np.diff(lengths.shard_offsets), lengths.shard_tokens)
    )
    n_steps = n_tokens / (_FILL * planner.token_budget * planner.packs_per_step)
    windows = np.maximum(1, np.minimum(np.round(n_samples / many), n_steps // _LEAST_STEPS))
    return _Epoch(order, begins, np.concatenate([[0], np.cumsum(windows.astype(np.int64))]))


@lru_cache(maxsize=2)
def _region(planner: Planner, epoch: int, number: int) -> _Region:
    """Spreads the steps of costly samples and the other samples over the region's windows.

    Windows are cut at whole steps: one of 2.1 steps would need 3.
    """
    whole = _epoch(planner, epoch)
    shards = whole.order[whole.begins[number] : whole.begins[number + 1]]
    costly, packs = _costly_steps(planner, shards, (planner.seed, epoch, number))
    held = np.bincount(packs // planner.packs_per_step, planner.lengths.tokens[costly])
    before = np.cumsum(planner.shards.other_tokens[shards])
    n_steps = _steps_for(held, int(before[-1]), _FILL * planner.token_budget * planner.packs_per_step)
    level = water_level(np.sort(np.append(held, np.zeros(n_steps - len(held)))), float(before[-1]))
    parts = np.arange(whole.windows[number + 1] - whole.windows[number] + 1)
    rows, steps = (parts * n // parts[-1] for n in (len(held), n_steps))
    taken = np.concatenate([[0.0], np.cumsum(np.maximum(level - held, 0))])[rows] + level * (steps - rows)
    targets = np.maximum.accumulate(taken)[1:-1] * (before[-1] / taken[-1]) if taken[-1] else taken[1:-1]
    cuts = [_cut(planner, shards, before, target) for target in targets]
    return _Region(shards, costly, packs, rows, np.array([(0, 0), *cuts, (len(shards), 0)]))


def _costly_steps(
    planner: Planner, shards: Ints, key: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(H,) costly samples of `shards`, and (H,) their packs, G a step: alike in a step, steps in random order."""
    lengths, n_packs = planner.lengths, planner.packs_per_step
    holding = shards[planner.shards.costly[shards] > 0]
    parts = (lengths.between(part) for part in lengths.shard_blocks(holding))
    samples = np.concatenate([np.zeros(0, np.int64), *(part[planner.is_costly(part)] for part in parts)])
    packs = costly_packs(
        lengths.tokens[samples],
        lengths.costs[samples],
        _unit(_random(len(samples), "costly", *key)),
        token_budget=planner.token_budget,
        alone=planner.costly_alone,
    )
    steps = packs // n_packs
    turn = np.argsort(_random(steps.max(initial=-1) + 1, "costly steps", *key), kind="stable")
    packs = turn[steps] * n_packs + packs % n_packs
    order = np.argsort(packs, kind="stable")
    return samples[order], packs[order]


def _cut(planner: Planner, shards: Ints, before: Ints, target: float) -> tuple[int, int]:
    """Where the other samples before hold `target` tokens: a position in `shards`, and samples of that shard."""
    at = int(np.searchsorted(before, target))
    samples = planner.lengths.between(shards[at : at + 1])
    tokens = np.where(planner.is_costly(samples), 0, planner.lengths.tokens[samples])
    missing = target - (before[at] - tokens.sum())
    return at, int(np.searchsorted(np.cumsum(tokens), missing, side="right"))


def _steps_for(held: Ints, tokens: int, full: float) -> int:
    """Steps of at most `full` tokens for `tokens` more than steps hold (Q,) already, if samples were as sand."""
    room = np.maximum(full - held, 0).sum()
    return len(held) + max(0, int(np.ceil((tokens - room) / full)))


def _random(n: int, *key: object) -> npt.NDArray[np.uint64]:
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


@lru_cache(maxsize=2)
def _window(planner: Planner, epoch: int, number: int) -> WindowPlan:
    lengths, n_packs = planner.lengths, planner.packs_per_step
    costly, packs, others = _window_samples(planner, epoch, number)
    assignment, n_steps = _fewest_steps(planner, costly, packs, others)
    samples = np.concatenate([costly, others])
    assignment = np.concatenate([packs, assignment])
    tokens, costs = lengths.tokens[samples], lengths.costs[samples]
    shape = (n_steps, n_packs)
    pack_costs = np.bincount(assignment, costs, n_steps * n_packs).reshape(shape)
    # Costliest first: the packs of one pass, taken by neighbouring numbers, are then the most alike.
    rank = np.argsort(np.argsort(-pack_costs, axis=1, kind="stable"), axis=1, kind="stable")
    turn = np.argsort(_random(n_steps, "steps", planner.seed, epoch, number), kind="stable")
    assignment = (turn[:, None] * n_packs + rank).reshape(-1)[assignment]
    pack_tokens = np.bincount(assignment, tokens, n_steps * n_packs)
    counts = np.bincount(assignment, minlength=n_steps * n_packs)
    return WindowPlan(
        samples=samples[_stable_order(assignment)],
        offsets=np.append(0, np.cumsum(counts)),
        tokens=pack_tokens.astype(np.int64).reshape(shape),
        costs=np.bincount(assignment, costs, n_steps * n_packs).reshape(shape),
    )


def _window_samples(
    planner: Planner, epoch: int, number: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(h,) the costly samples of a window and their packs, and (n,) its others, about the largest first."""
    windows = _epoch(planner, epoch).windows
    at = int(np.searchsorted(windows, number, side="right")) - 1
    region, index = _region(planner, epoch, at), number - int(windows[at])
    (begin, skip), (end, last) = region.cuts[index], region.cuts[index + 1]
    between = planner.lengths.between(region.shards[begin : end + bool(last)], skip, last or None)
    others = between[~planner.is_costly(between)]
    tokens = planner.lengths.tokens[others]
    noise = _random(len(others) + 1, "samples", planner.seed, epoch, number)
    # Samples of one size stay together, in random order, so that each step gets its part of them.
    nudge = _JITTER * _unit(_scrambled(tokens.astype(np.uint64) ^ noise[-1])) + 1e-6 * _unit(noise[:-1])
    first_pack = int(region.rows[index]) * planner.packs_per_step
    part = slice(*np.searchsorted(region.packs, region.rows[index : index + 2] * planner.packs_per_step))
    ordered = others[np.argsort(tokens * (-1 - nudge), kind="stable")]
    return region.costly[part], region.packs[part] - first_pack, ordered


def _fewest_steps(
    planner: Planner, costly: Ints, packs: Ints, others: Ints
) -> tuple[npt.NDArray[np.int32], int]:
    """Packs the other samples of a window into as few steps as hold all; returns their packs and the steps."""
    lengths, budget, n_packs = planner.lengths, planner.token_budget, planner.packs_per_step
    n_held = (-(-(int(packs[-1]) + 1) // n_packs) if len(packs) else 0) * n_packs
    held, spent = (
        np.bincount(packs, values[costly], n_held).reshape(-1, n_packs)
        for values in (lengths.tokens, lengths.costs)
    )
    tokens, costs = lengths.tokens[others], lengths.costs[others]
    needed = _needed(np.concatenate([lengths.tokens[costly], tokens]), budget, n_packs)
    fewest, n_steps = (
        max(_steps_for(held.sum(axis=1), int(tokens.sum()), fill * budget * n_packs), needed)
        for fill in (1, _FULLEST)
    )
    if n_steps > _FEWER * fewest:
        n_steps = fewest
    while True:
        empty = np.zeros((n_steps - len(held), n_packs))
        assignment = pack(
            tokens,
            costs,
            held=np.concatenate([held, empty]),
            spent=np.concatenate([spent, empty]),
            token_budget=budget,
        )
        if assignment is not None:
            return assignment, n_steps
        n_steps += max(1, n_steps // 50)


def _needed(tokens: Floats, budget: int, n_packs: int) -> int:
    """Steps that large samples need: no pack holds two of over half the budget, none three of over a third, …"""
    return max(-(-int(np.count_nonzero(tokens * (k + 1) > budget)) // (k * n_packs)) for k in range(1, 5))


def _stable_order(packs: Ints) -> npt.NDArray[np.int64]:
    """Stable argsort; numpy sorts 16-bit keys by radix, ten times as fast."""
    return np.argsort(packs.astype(np.uint16) if packs.max() < 1 << 16 else packs, kind="stable")


@lru_cache(maxsize=1 << 16)
def _n_steps(planner: Planner, epoch: int, window: int) -> int:
    return planner.window(epoch, window).n_steps


def ranks_share(n_packs: int, world_size: int, rank: int) -> list[int]:
    """The packs of a step that a rank computes, one a pass; the same number of passes on every rank.

    Back and forth, so that the first ranks do not get the costlier pack of every pass. `NO_PACK` stands for
    an empty pack where the ranks do not divide the packs.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be between 0 and {world_size - 1}, got {rank}")
    passes = range(-(-n_packs // world_size))
    numbers = [world_size * i + (world_size - 1 - rank if i % 2 else rank) for i in passes]
    return [number if number < n_packs else NO_PACK for number in numbers]


def cost_spread(rank_costs: Floats) -> float:
    """How far the busiest rank is above the mean, (max - mean) / mean; 0 where nobody has work."""
    mean = float(np.mean(rank_costs))
    return (float(np.max(rank_costs)) - mean) / mean if mean else 0.0
