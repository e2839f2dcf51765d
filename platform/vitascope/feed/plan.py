"""The epoch's steps, from lengths alone.

In: an index's arrays (shard, tokens and cost of each sample). Out: for every global step its packs, each a
list of samples. All of it follows from (index, seed, epoch, token budget, packs per step), so any process can
compute any step by itself, on any number of ranks, and the position of a run is three integers.

A window of the epoch (`vitascope.feed.windows`) is planned on its own, from its number. Every step gets the
window's mix of sizes, except for samples that cannot be levelled: they are in steps of their kind, which the
others fill up (`vitascope.feed.costly`, `vitascope.feed.packing`). The plan uses only the raw numbers of the
Philox generator, stable sorts and sums in a fixed order, so it is the same on every machine and with every
numpy.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vitascope.errors import Mistake
from vitascope.feed.costly import cost_limits
from vitascope.feed.lengths import Floats, Ints, Lengths
from vitascope.feed.packing import busy, pack
from vitascope.feed.windows import Content, Windows, random_numbers, steps_for

PLAN_RULE = "levelled by trial, costly samples in steps of their kind"
"""Names how samples become steps; a checkpoint's position means nothing under another rule."""

NO_PACK = -1
"""An empty pack, if the ranks do not divide a step's packs."""

_FULLEST = 0.975  # of a window, which is cut between samples and so not quite at 0.97
_FEWER = 1.05  # windows that need more steps than this times the fewest are packed as full as they can be
_TRIED = 4  # of a window's samples, a fourth is planned to choose between two ways
_WORTH_A_WORD = 0.97  # of the ranks' time: a lower busy ratio is reported


@dataclass(frozen=True, order=True)
class Position:
    """The position of a run: the next step to compute."""

    epoch: int = 0
    window: int = 0
    step: int = 0


START = Position()
"""The first step of a run."""


@dataclass(frozen=True, eq=False)
class StepPlan:
    """A global step: G packs, the costliest first, some empty if samples are few.

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
        offsets: (S * G + 1,) the start of each pack's samples.
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
        window_samples: approximate number of samples planned together; at least 4 steps.

    Raises:
        Mistake: a sample is larger than the budget.
        ValueError: an argument is below 1.
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
                f"sample number {largest} has {n_tokens} tokens, more than the budget of "
                f"{self.token_budget}: set feed.token_budget to that or more, or encode at smaller sizes"
            )

    @cached_property
    def _windows(self) -> Windows:
        """The way to separate costly samples that gives fuller packs and busier ranks in a trial."""
        rule = (self.lengths, self.seed, self.token_budget, self.packs_per_step, self.window_samples)
        limits = cost_limits(self.lengths, token_budget=self.token_budget, packs_per_step=self.packs_per_step)
        ways = [Windows(*rule, cost_limit=limit) for limit in limits]
        if len(ways) == 1:
            return ways[0]
        part = max(1, self.window_samples // _TRIED)
        firsts = [_window(replace(way, window_samples=part), 0, 0) for way in ways]
        return ways[int(np.argmax([busy(first.costs) * first.tokens.mean() for first in firsts]))]

    def windows(self, epoch: int) -> int:
        """The number of windows of the epoch, 1 or more."""
        return self._windows.count(epoch)

    def window(self, epoch: int, number: int) -> WindowPlan:
        """The plan of a window; the last few are cached.

        Raises:
            ValueError: the epoch has no such window.
        """
        if epoch < 0 or not 0 <= number < self.windows(epoch):
            raise ValueError(f"no window {number} in epoch {epoch}: it has {self.windows(max(epoch, 0))}")
        return _window(self._windows, epoch, number)

    def step(self, position: Position) -> StepPlan:
        """The step at a position.

        Raises:
            ValueError: the window has no such step.
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
        """A sentence on why ranks wait for 3 % of the time or more, judged by the first window; else None."""
        costs = self.window(0, 0).costs
        share = busy(costs)
        if share >= _WORTH_A_WORD:
            return None
        highest = int(np.argmax(self.lengths.costs))
        n_costly = self._windows.n_costly
        times = float(self.lengths.costs[highest] / costs[costs > 0].mean())
        return (
            f"ranks will wait {1 - share:.0%} of the time: the costliest sample, of "
            f"{self.lengths.tokens[highest]} tokens, costs {times:.1f} times a mean pack, and "
            f"{len(self.lengths)} samples, {n_costly} of them costly, are too few for steps of "
            f"{self.packs_per_step} equal packs. Fewer feed.packs_per_step or more samples help, as do "
            "smaller sizes for long clips (encode.buckets)"
        )


@lru_cache(maxsize=2)
def _window(windows: Windows, epoch: int, number: int) -> WindowPlan:
    lengths, n_packs = windows.lengths, windows.packs_per_step
    content = windows.content(epoch, number)
    samples = np.concatenate([content.costly, content.others])
    assignment = np.concatenate([content.packs, _fewest_steps(windows, content)])
    steps = np.flatnonzero(np.bincount(assignment // n_packs))  # non-empty ones
    assignment = np.searchsorted(steps, assignment // n_packs) * n_packs + assignment % n_packs
    n_steps = len(steps)
    tokens, costs = lengths.tokens[samples], lengths.costs[samples]
    shape = (n_steps, n_packs)
    pack_costs = np.bincount(assignment, costs, n_steps * n_packs).reshape(shape)
    # Costliest first: the packs of one pass, taken by neighbouring numbers, are then the most alike.
    rank = np.argsort(np.argsort(-pack_costs, axis=1, kind="stable"), axis=1, kind="stable")
    turn = np.argsort(random_numbers(n_steps, "steps", windows.seed, epoch, number), kind="stable")
    assignment = (turn[:, None] * n_packs + rank).reshape(-1)[assignment]
    pack_tokens = np.bincount(assignment, tokens, n_steps * n_packs)
    counts = np.bincount(assignment, minlength=n_steps * n_packs)
    return WindowPlan(
        samples=samples[_stable_order(assignment)],
        offsets=np.append(0, np.cumsum(counts)),
        tokens=pack_tokens.astype(np.int64).reshape(shape),
        costs=np.bincount(assignment, costs, n_steps * n_packs).astype(np.float64).reshape(shape),
    )


def _fewest_steps(windows: Windows, content: Content) -> npt.NDArray[np.int32]:
    """(n,) the packs of a window's other samples, in the fewest steps that hold all."""
    lengths, budget, n_packs = windows.lengths, windows.token_budget, windows.packs_per_step
    costly, others = content.costly, content.others
    held, spent = (
        np.bincount(content.packs, values[costly], content.n_packs).reshape(-1, n_packs)
        for values in (lengths.tokens, lengths.costs)
    )
    tokens, costs = lengths.tokens[others], lengths.costs[others]
    needed = _needed(np.concatenate([lengths.tokens[costly], tokens]), budget, n_packs)
    fewest, n_steps = (
        max(steps_for(held.sum(axis=1), int(tokens.sum()), fill * budget * n_packs), needed)
        for fill in (1, _FULLEST)
    )
    if n_steps > _FEWER * fewest:
        n_steps = fewest
    n_steps = max(1, min(n_steps, len(held) + len(others)))  # no step is empty
    exact: npt.NDArray[np.int64] | None = None  # the order by size, needed if few samples fit a pack
    while True:
        empty = np.zeros((n_steps - len(held), n_packs))
        filled = {"held": np.concatenate([held, empty]), "spent": np.concatenate([spent, empty])}
        packs = pack(tokens, costs, **filled, token_budget=budget)
        if packs is not None:
            return packs if exact is None else packs[np.argsort(exact, kind="stable")]
        if exact is None:
            exact = np.argsort(-tokens.astype(np.int64), kind="stable")
            tokens, costs = tokens[exact], costs[exact]
        else:
            n_steps += max(1, n_steps // 50)


def _needed(tokens: Floats, budget: int, n_packs: int) -> int:
    """Steps that large samples need: a pack holds one of over half the budget, two of over a third, …"""
    return max(
        -(-int(np.count_nonzero(tokens.astype(np.int64) * (k + 1) > budget)) // (k * n_packs))
        for k in range(1, 5)
    )


def _stable_order(packs: Ints) -> npt.NDArray[np.int64]:
    """Stable argsort; numpy sorts 16-bit keys by radix, ten times as fast."""
    return np.argsort(packs.astype(np.uint16) if packs.max() < 1 << 16 else packs, kind="stable")


@lru_cache(maxsize=1 << 16)
def _n_steps(planner: Planner, epoch: int, window: int) -> int:
    return planner.window(epoch, window).n_steps


def ranks_share(n_packs: int, world_size: int, rank: int) -> list[int]:
    """The packs of a step that a rank computes, one a pass; the same number of passes on every rank.

    The order alternates, so that the first ranks do not get the costlier pack of every pass. `NO_PACK` is an
    empty pack, if the ranks do not divide the packs.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be between 0 and {world_size - 1}, got {rank}")
    passes = range(-(-n_packs // world_size))
    numbers = [world_size * i + (world_size - 1 - rank if i % 2 else rank) for i in passes]
    return [number if number < n_packs else NO_PACK for number in numbers]


def ranks_advice(n_packs: int, world_size: int) -> str | None:
    """A sentence if the ranks do not divide a step's packs, with numbers that would; None if they do."""
    passes = -(-n_packs // world_size)
    idle = 1 - n_packs / (passes * world_size)
    if not idle:
        return None
    ranks = [n for n in range(1, n_packs + 1) if n_packs % n == 0]
    near = {max(n for n in ranks if n < world_size), *[n for n in ranks if n > world_size][:1]}
    packs = sorted({n_packs // world_size * world_size or world_size, passes * world_size})
    return (
        f"{world_size} ranks do not divide the {n_packs} packs of a step, so they idle {idle:.0%} of the "
        f"time: set feed.packs_per_step to {_or(packs)}, or train.ranks to {_or(sorted(near))}"
    )


def _or(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))


def cost_spread(rank_costs: Floats) -> float:
    """The busiest rank's excess over the mean, (max - mean) / mean; 0 if no rank has work."""
    mean = float(np.mean(rank_costs))
    return (float(np.max(rank_costs)) - mean) / mean if mean else 0.0
