"""The samples' lengths and costs, for planning."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vitascope.errors import Mistake

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]

_BLOCK = 1 << 17  # samples processed together: bounds the memory in addition to the index


@dataclass(frozen=True, eq=False)
class Lengths:
    """Three arrays of one length, the samples of a shard together; 12 bytes a sample in the smallest types.

    Args:
        shard: (N,) integers, the file that holds a sample.
        tokens: (N,) patches, 1 or more.
        costs: (N,) compute in any unit, above 0; in attention's part quadratic in the tokens.

    Raises:
        ValueError: the arrays do not match, or a value is out of range.
    """

    shard: Ints
    tokens: Ints
    costs: Floats

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.shard, self.tokens, self.costs)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(f"shard, tokens and costs must be vectors of one length, got {shapes}")
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
        """(shards + 1,) the start of each shard's samples, and the end."""
        changes = np.flatnonzero(self.shard[1:] != self.shard[:-1]) + 1
        return np.concatenate([[0], changes, [len(self)]])

    @property
    def n_shards(self) -> int:
        """The number of shards."""
        return len(self.shard_offsets) - 1

    @cached_property
    def shard_tokens(self) -> npt.NDArray[np.int64]:
        """(shards,) tokens of each shard."""
        return self.sums_by_shard(lambda samples: self.tokens[samples])

    def sums_by_shard(self, values: Callable[[slice], npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        """(shards,) sums of the results of `values` for samples, block by block."""
        sums = []
        for shards in self.shard_blocks():
            begins, end = self.shard_offsets[shards], self.shard_offsets[shards[-1] + 1]
            numbers = values(slice(int(begins[0]), int(end)))
            sums.append(np.add.reduceat(numbers, begins - begins[0], dtype=np.int64))
        return np.concatenate(sums)

    def shard_blocks(self, shards: Ints | None = None) -> list[npt.NDArray[np.int64]]:
        """`shards`, all by default, in non-empty parts of about a block of samples."""
        shards = np.arange(self.n_shards) if shards is None else shards
        n_samples = int((self.shard_offsets[shards + 1] - self.shard_offsets[shards]).sum())
        n_parts = min(len(shards), 1 + n_samples // _BLOCK)
        return np.array_split(shards, n_parts) if n_parts else []

    @cached_property
    def cheapest_token(self) -> float:
        """The least cost of a token, in any sample."""
        return min(
            float((self.costs[part] / self.tokens[part].astype(float)).min()) for part in blocks(len(self))
        )

    def between(self, shards: Ints, skip: int = 0, last: int | None = None) -> npt.NDArray[np.int64]:
        """(n,) numbers of the samples of `shards`, one shard after the other.

        Args:
            skip: samples of the first shard to leave out.
            last: samples of the last shard to take, from its beginning; all by default.
        """
        begins, ends = self.shard_offsets[shards], self.shard_offsets[shards + 1]
        if len(shards) and last is not None:
            ends[-1] = begins[-1] + last
        if len(shards):
            begins[0] += skip
        counts = ends - begins
        before = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(begins - before, counts)


def blocks(n: int) -> Iterator[slice]:
    """Slices of 0 to n."""
    return (slice(begin, begin + _BLOCK) for begin in range(0, n, _BLOCK))
