"""The epoch's steps, from lengths alone.

In: an index's arrays (shard, tokens and cost of each sample). Out: for every global step its packs, each a
list of samples. All of it follows from (index, seed, epoch, token budget, packs per step), so any process can
work out any step by itself, on any number of ranks, and the position of a run is three integers.

An epoch's shards are shuffled and cut into windows; a window is planned on its own, from its number. Memory
is bounded by the window, beside the index and 24 bytes a shard. The plan uses only the raw numbers of the
Philox generator, stable sorts and sums in a fixed order, so that it is the same on every machine and with
every numpy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vitascope.errors import Mistake
from vitascope.feed.packing import Floats, Ints, equal_cost_budget, pack
from vitascope.records import stable_int

NO_PACK = -1
"""Stands for an empty pack where the ranks do not divide a step's packs."""

# Windows are cut to whole steps of packs this full. Room for 3 % of the tokens is what lets the costs be
# levelled: at 99 % the ranks' costs differed by up to 10x more, and idle ranks cost time, room does not.
_FILL = 0.97
_FULLEST = 0.975  # of a window, which is cut between shards and so not quite at _FILL
_JITTER = 0.1  # sizes that differ by less than a tenth change places from epoch to epoch


@dataclass(frozen=True, eq=False)
class Lengths:
    """What planning knows of each sample: four arrays of one length, the samples of a shard together.

    Args:
        sample_id: (N,) integers, for messages.
        shard: (N,) integers, the file a sample lies in.
        tokens: (N,) patches, 1 or more.
        costs: (N,) compute in any unit, above 0; in attention's share quadratic in the tokens.

    Raises:
        ValueError: where the arrays do not agree or a value is out of range.
    """

    sample_id: Ints
    shard: Ints
    tokens: Ints
    costs: Floats

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.sample_id, self.shard, self.tokens, self.costs)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"sample_id, shard, tokens and costs must be vectors of one length, got {shapes}"
            )
        if not len(self):
            raise Mistake("no samples to plan: the index is empty. Does the split hold any clips?")
        if self.tokens.min() < 1:
            raise ValueError(f"every sample has 1 token or more, got {self.tokens.min()}")
        if not (self.costs.min() > 0 and self.costs.max() < np.inf):
            raise ValueError(
                f"costs must be finite and above 0, got {self.costs.min()} to {self.costs.max()}"
            )
        firsts = self.shard[self.shard_offsets[:-1]]
        if len(np.unique(firsts)) < len(firsts):
            raise ValueError("the samples of a shard must lie together: sort the index by (shard, row)")

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def shard_offsets(self) -> npt.NDArray[np.int64]:
        """(shards + 1,) where each shard's samples begin, and the end."""
        return np.append(np.flatnonzero(np.append(True, self.shard[1:] != self.shard[:-1])), len(self))

    @cached_property
    def shard_tokens(self) -> npt.NDArray[np.int64]:
        """(shards,) tokens of each shard."""
        return np.add.reduceat(self.tokens, self.shard_offsets[:-1], dtype=np.int64)


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
        window_samples: about so many samples are planned together; at least a shard and a step.

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
            raise Mistake(
                f"sample {self.lengths.sample_id[largest]} has {n_tokens} tokens, more than the budget of "
                f"{self.token_budget}: set feed.token_budget to that or more, or encode at smaller sizes"
            )

    def windows(self, epoch: int) -> int:
        """How many windows the epoch has, 1 or more."""
        return len(_epoch(self, epoch)[1]) - 1

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


@lru_cache(maxsize=2)
def _epoch(planner: Planner, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The epoch's order of shards, and (W + 1,) where its windows begin in that order.

    Windows are cut at whole steps by tokens, not at a number of samples: a window of 2.1 steps would need 3.
    """
    lengths = planner.lengths
    n_shards = len(lengths.shard_tokens)
    order = np.argsort(_random(n_shards, "shards", planner.seed, epoch), kind="stable")
    tokens = np.cumsum(lengths.shard_tokens[order])
    n_steps = int(np.ceil(tokens[-1] / (_FILL * planner.token_budget * planner.packs_per_step)))
    n_windows = max(1, min(n_shards, n_steps, round(len(lengths) / planner.window_samples)))
    first_steps = np.round(np.arange(n_windows) * (n_steps / n_windows))
    begins = np.searchsorted(tokens, tokens[-1] * (first_steps / n_steps), side="right")
    return order, np.unique(np.append(begins, n_shards))


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
    lengths = planner.lengths
    samples = _window_samples(planner, epoch, number)
    tokens, costs = lengths.tokens[samples], lengths.costs[samples]
    n_packs = planner.packs_per_step
    assignment, n_steps = _fewest_steps(tokens, costs, planner)
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
        costs=np.bincount(assignment, costs, n_steps * n_packs).astype(np.float64).reshape(shape),
    )


def _window_samples(planner: Planner, epoch: int, number: int) -> npt.NDArray[np.int64]:
    """(n,) the window's sample numbers, about the largest first."""
    lengths = planner.lengths
    order, begins = _epoch(planner, epoch)
    shards = order[begins[number] : begins[number + 1]]
    starts = lengths.shard_offsets[shards]
    counts = lengths.shard_offsets[shards + 1] - starts
    before = np.cumsum(counts) - counts
    samples = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    tokens = lengths.tokens[samples]
    noise = _random(len(samples) + 1, "samples", planner.seed, epoch, number)
    # Samples of one size stay together, in random order, so that each step gets its share of them.
    nudge = _JITTER * _unit(_scrambled(tokens.astype(np.uint64) ^ noise[-1])) + 1e-6 * _unit(noise[:-1])
    return samples[np.argsort(tokens * (-1 - nudge), kind="stable")]


def _fewest_steps(tokens: Ints, costs: Floats, planner: Planner) -> tuple[npt.NDArray[np.int32], int]:
    """Packs the samples of a window into as few steps as hold them; returns the assignment and the steps."""
    budget, n_packs = planner.token_budget, planner.packs_per_step
    # No pack holds two samples of over half the budget, none three of over a third, and so on.
    needed = [int(np.count_nonzero(tokens * (k + 1) > budget)) / k for k in range(1, 5)]
    n_steps = int(np.ceil(max(int(tokens.sum()) / (_FULLEST * budget), *needed) / n_packs))
    while True:
        assignment = pack(tokens, costs, n_steps=n_steps, packs_per_step=n_packs, token_budget=budget)
        if assignment is not None:
            return assignment, n_steps
        n_steps += max(1, n_steps // 50)


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
