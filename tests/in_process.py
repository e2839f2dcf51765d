"""Ray's part of a stage, done in this process: for what a stage plans, drops and commits.

What Ray itself does, such as placing work, losing workers and moving data, only a cluster shows.
"""

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

Row = dict[str, Any]
CPUS = 8
MEMORY_BYTES = 64 << 30


class Dataset:
    """What the stages use of Ray Data's: blocks are rows, or tables."""

    def __init__(self, blocks: Iterable[Row | pa.Table]) -> None:
        self._blocks = blocks
        self.context = SimpleNamespace(execution_options=SimpleNamespace(label_selector=None))

    def map(self, fn: Any, **how: Any) -> "Dataset":
        """`fn`, or an instance of it if it is a class, applied to each row."""
        call = _callable(fn, how)
        return Dataset(call(row) for row in self.iter_rows())

    def map_batches(self, fn: Any, *, batch_size: int, batch_format: str, **how: Any) -> "Dataset":
        """The same for each row as a table."""
        assert (batch_size, batch_format) == (1, "pyarrow"), "other batches are not made here"
        call = _callable(fn, how)
        return Dataset(call(table.slice(i, 1)) for table in self._tables() for i in range(len(table)))

    def iter_rows(self) -> Iterator[Row]:
        """The rows; the work is done as they are asked for."""
        for block in self._blocks:
            yield from [block] if isinstance(block, dict) else block.to_pylist()

    def _tables(self) -> Iterator[pa.Table]:
        for block in self._blocks:
            yield pa.Table.from_pylist([block]) if isinstance(block, dict) else block


def _callable(fn: Any, how: Row) -> Callable[[Any], Any]:
    if isinstance(fn, type):
        fn = fn(**how.get("fn_constructor_kwargs", {}))
    return lambda argument: fn(argument, **how.get("fn_kwargs", {}))


class Remote:
    """A function as a task, which is done when it is called."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.remote = fn

    def options(self, **_: Any) -> "Remote":
        return self


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Puts this in the place of a cluster of 8 CPUs without GPUs."""
    node = {"Alive": True, "Resources": {"CPU": float(CPUS), "memory": float(MEMORY_BYTES)}}
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setattr(ray, "is_initialized", lambda: True)
    patch.setattr(ray, "cluster_resources", lambda: node["Resources"])
    patch.setattr(ray, "nodes", lambda: [node])
    patch.setattr(ray, "remote", Remote)
    patch.setattr(ray, "get", lambda values: values)
    patch.setattr(ray.data, "from_items", lambda items, **_: Dataset(items))
