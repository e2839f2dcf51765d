"""Planned packs, loaded by Ray Data ahead of need.

A rank computes its own rows of the plan and has Ray Data turn each into a pack, in order: a task reads the
samples, samples their noise levels and captions, and lays them end to end. Both packs and plan rows are
prefetched up to a bound.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.torch

from vitascope.feed.packs import Pack, idle
from vitascope.feed.plan import NO_PACK, Position, StepPlan, cost_spread, ranks_share
from vitascope.feed.settings import TASKS_AT_ONCE
from vitascope.feed.source import Source, load_pack, planned


@dataclass(frozen=True, eq=False)
class Step:
    """A global step, from one rank's view.

    position: of this step; after: the next position, which a checkpoint keeps.
    n_tokens, n_text: of the whole step. cost_spread: of its ranks. packs: this rank's, one a pass.
    """

    position: Position
    after: Position
    plan: StepPlan
    n_tokens: int
    n_text: int
    cost_spread: float
    packs: Iterator[Pack]

    @property
    def flops(self) -> float:
        """Forward FLOPs of the whole step."""
        return float(self.plan.costs.sum())

    @property
    def useful_token_share(self) -> float:
        """Patches and text tokens of samples divided by all tokens computed.

        The others are a learned text token for each sample, and two tokens for an empty pack.
        """
        real = self.n_tokens + self.n_text
        overhead = sum(max(len(samples), 2 * (not len(samples))) for samples in self.plan.packs)
        return real / (real + overhead)


class PlannedPack(NamedTuple):
    """Identifies a pack of a plan."""

    epoch: int
    window: int
    step: int
    number: int


Load = Callable[[Source, list[PlannedPack]], Iterator[Pack]]
"""Loads planned packs of a source, in order and as they are consumed."""


class Feed:
    """One rank's packs of a source."""

    def __init__(
        self, source: Source, *, rank: int, world_size: int, prefetch_packs: int, load: Load | None = None
    ) -> None:
        """`load`: Ray Data by default."""
        self._source, self._prefetch, self._load_packs = source, prefetch_packs, load or execute
        self._known = planned(source)
        self._shares = [ranks_share(source.packs_per_step, world_size, r) for r in range(world_size)]
        self._mine = self._shares[rank]

    @property
    def passes(self) -> int:
        """Forward passes of a step, the same on every rank."""
        return len(self._mine)

    @property
    def total_tokens(self) -> int:
        """Patches in an epoch."""
        return int(self._known.planner.lengths.tokens.sum())

    def epoch(self, number: int) -> Iterator[Step]:
        """All steps of one epoch."""
        return self.steps(Position(number), self._known.planner.steps_in_epoch(number))

    def epochs(self, count: int) -> Iterator[Step]:
        """All steps of the first `count` epochs."""
        planner = self._known.planner
        return self.steps(Position(), sum(planner.steps_in_epoch(number) for number in range(count)))

    def steps(self, start: Position, count: int) -> Iterator[Step]:
        """`count` steps from `start` on. All packs of a step must be consumed before the next step."""
        with _ahead(self._load(start, count), self._prefetch) as loaded:
            for position, plan in islice(self._known.planner.walk(start), count):
                yield self._step(position, plan, loaded)

    def _step(self, position: Position, plan: StepPlan, loaded: Iterator[Pack]) -> Step:
        costs = np.append(plan.costs, 0.0)  # the last one is for NO_PACK
        rank_costs = np.array([costs[share].sum() for share in self._shares])
        return Step(
            position=position,
            after=self._known.planner.after(position),
            plan=plan,
            n_tokens=int(plan.tokens.sum()),
            n_text=int(self._known.n_text[np.concatenate(plan.packs)].sum()),
            cost_spread=cost_spread(rank_costs),
            packs=islice(loaded, self.passes),
        )

    def _load(self, start: Position, count: int) -> Iterator[Pack]:
        """This rank's packs of `count` steps, pass by pass; `idle` ones if a step has no pack for it."""
        walk = islice(self._known.planner.walk(start), count)
        empty: Pack | None = None
        while part := list(islice(walk, max(1, self._prefetch // self.passes))):
            wanted = [(position, n, _has_pack(plan, n)) for position, plan in part for n in self._mine]
            planned_packs = [
                PlannedPack(at.epoch, at.window, at.step, n) for at, n, present in wanted if present
            ]
            packs = self._load_packs(self._source, planned_packs)
            for _, _, present in wanted:
                if present:
                    pack = next(packs)
                    empty = empty or idle(pack.tokens.shape[1], pack.text.shape[1])
                    yield pack
                else:
                    empty = empty or self._idle()
                    yield empty

    def _idle(self) -> Pack:
        """An empty pack with the dimensions of the first pack."""
        first = load_pack(self._source, Position(), 0)
        return idle(first.tokens.shape[1], first.text.shape[1])


def _has_pack(plan: StepPlan, number: int) -> bool:
    return number != NO_PACK and len(plan.packs[number]) > 0


def execute(source: Source, packs: list[PlannedPack], labels: dict[str, str] | None = None) -> Iterator[Pack]:
    """Has Ray Data load planned packs, in order, on nodes with `labels`.

    Few packs at a time, so that an execution soon has nothing left to do: one that waits for its consumer
    spins in this process, and took half of the training's time on a CPU.
    """
    import ray.data  # here, so that a machine without Ray can load packs differently
    from ray.data import ExecutionResources

    if not packs:
        return
    n_tasks = min(TASKS_AT_ONCE, len(packs))
    rows = pa.Table.from_pylist([pack._asdict() for pack in packs])
    dataset = ray.data.from_arrow(rows, override_num_blocks=n_tasks)
    options = dataset.context.execution_options
    options.preserve_order = True
    options.label_selector = labels
    options.resource_limits = ExecutionResources(cpu=TASKS_AT_ONCE)
    loaded = dataset.map(partial(_load_row, source))
    for batch in loaded.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1):
        yield Pack(**safetensors.torch.load(batch["pack"][0].as_buffer().to_pybytes()))


def _load_row(source: Source, row: dict[str, int]) -> dict[str, bytes]:
    pack = load_pack(source, Position(row["epoch"], row["window"], row["step"]), row["number"])
    return {"pack": safetensors.torch.save(pack.tensors())}


@contextmanager
def _ahead(packs: Iterator[Pack], count: int) -> Iterator[Iterator[Pack]]:
    """Prefetches `count` packs in a thread; its errors are raised when the pack is consumed."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=count)
    closed = threading.Event()

    def put(item: Any) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for pack in packs:
                put(pack)
                if closed.is_set():
                    return
            put(StopIteration())
        except Exception as error:  # raised again by `take`
            put(error)

    def take() -> Iterator[Pack]:
        while True:
            item = ready.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, Exception):
                raise item
            yield item

    thread = threading.Thread(target=fill, name="feed", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        closed.set()
        thread.join()
        with suppress(queue.Full):
            ready.put_nowait(RuntimeError("packs must be consumed before the next step, or the feed closed"))
