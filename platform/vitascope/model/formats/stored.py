"""Tensors of safetensors files, read in parts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch

from vitascope import checksum, storage
from vitascope.errors import Mistake
from vitascope.weights import Stored, read_header
from vitascope.wording import short

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of the formats that are read."""


@dataclass(frozen=True)
class Weights(Mapping[str, torch.Tensor]):
    """Named tensors of safetensors files. Each is read when it is asked for, and none is kept."""

    tensors: Mapping[str, Stored]

    def __post_init__(self) -> None:
        odd = [(name, stored) for name, stored in self.tensors.items() if stored.format not in DTYPES]
        if odd:
            name, stored = odd[0]
            raise Mistake(
                f"{stored.uri} holds {short(name, 80)} as {stored.format}; expected {', '.join(DTYPES)}: "
                "use the weights as they were before they were quantised"
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape; nothing is read."""
        return {name: stored.shape for name, stored in self.tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        """The whole tensor, in the number format of its file."""
        shape = self.tensors[name].shape
        return self.read_part(name, 0, prod(shape)).reshape(shape)

    def read_part(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Elements `start` up to `stop` of the flattened tensor; only their bytes are fetched."""
        stored = self.tensors[name]
        dtype = DTYPES[stored.format]
        if start >= stop:
            return torch.empty(0, dtype=dtype)
        begin, end = (stored.start + n * dtype.itemsize for n in (start, stop))
        return torch.frombuffer(bytearray(storage.read_bytes(stored.uri, begin, end)), dtype=dtype)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def read_sealed(uri: str, remedy: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a file with a checksum, one at a time; the file is fetched once.

    Raises:
        Mistake: it is no safetensors file, or, after the last tensor, it is not the one that was written.
    """
    tensors = Weights(read_header(uri, remedy)).tensors
    with storage.open_file(uri) as file:
        hashed, position = checksum.Hashed(uri, file), 0
        for name, stored in sorted(tensors.items(), key=lambda item: item[1].start):
            hashed.read(stored.start - position)
            dtype = DTYPES[stored.format]
            content = hashed.read(prod(stored.shape) * dtype.itemsize)
            position = stored.start + len(content)
            yield name, torch.frombuffer(bytearray(content), dtype=dtype).reshape(stored.shape)
        hashed.check()
