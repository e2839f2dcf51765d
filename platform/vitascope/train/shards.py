"""The part of a tensor that a rank holds, for any number of ranks.

A rank's shard of a tensor is its n-th equal part of the flattened elements (ZeRO-3's partition, without the
padding at the end). A checkpoint has a file per rank; because parts follow from (elements, ranks, rank)
alone, any number of ranks can read a checkpoint of any other number, each rank reading only what it needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import Field

from vitascope import checksum
from vitascope.section import Section


class Shards(Section):
    """What all shards of a checkpoint have in common; `updates` is the number of steps not skipped."""

    step: int
    updates: int = Field(default_factory=lambda known: known["step"])  # earlier releases record none
    ranks: int
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Span:
    """Elements from `start` up to `stop`."""

    start: int
    stop: int


def part_of(numel: int, ranks: int, rank: int) -> Span:
    """The elements of a tensor of `numel` that `rank` of `ranks` holds; empty if none are left."""
    size = -(-numel // ranks)
    return Span(min(numel, rank * size), min(numel, (rank + 1) * size))


def overlaps(numel: int, ranks: int, wanted: Span) -> Iterator[tuple[int, Span]]:
    """The ranks of `ranks` that hold elements of `wanted`, and their span within each rank's part."""
    for rank in range(ranks):
        part = part_of(numel, ranks, rank)
        start, stop = max(part.start, wanted.start), min(part.stop, wanted.stop)
        if start < stop:
            yield rank, Span(start - part.start, stop - part.start)


def file_name(rank: int, ranks: int) -> str:
    """The file of a rank's shard."""
    return f"state-{rank:05d}-of-{ranks:05d}.safetensors"


class ShardedState:
    """The tensors of a checkpoint folder, read in parts. Each file is checked before it is read."""

    def __init__(self, folder: str | Path, ranks: int) -> None:
        self._folder, self._ranks = folder, ranks
        self._files: dict[int, Any] = {}

    def _file(self, rank: int) -> Any:
        if rank not in self._files:
            path = Path(self._folder) / file_name(rank, self._ranks)
            checksum.check(str(path))
            self._files[rank] = safetensors.safe_open(path, "pt")
        return self._files[rank]

    def read(self, name: str, numel: int, wanted: Span) -> torch.Tensor:
        """Elements `wanted` of the flattened tensor `name`, from the files that hold them.

        ValueError if one of them is damaged.
        """
        held = overlaps(numel, self._ranks, wanted)
        pieces = [self._file(rank).get_slice(name)[span.start : span.stop] for rank, span in held]
        return torch.cat(pieces) if pieces else torch.zeros(0)

    def whole(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """The whole tensor `name`."""
        numel = torch.Size(shape).numel()
        return self.read(name, numel, Span(0, numel)).reshape(tuple(shape))


def write_shard(folder: str | Path, tensors: dict[str, torch.Tensor], rank: int, ranks: int) -> None:
    """Writes one rank's parts, flattened and on the host, into the folder of a checkpoint."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path = Path(folder) / file_name(rank, ranks)
    safetensors.torch.save_file(flat, path)
    checksum.seal(str(path))
