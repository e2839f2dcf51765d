"""Tensors of safetensors files, read in parts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.weights import Stored
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
