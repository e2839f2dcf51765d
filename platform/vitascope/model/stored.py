"""Tensors in safetensors files, read in parts."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.wording import short

Shapes = Mapping[str, tuple[int, ...]]

_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Stored:
    """The position of a tensor: its file, its first byte there, its number format and its shape."""

    uri: str
    start: int
    format: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """That of torch; KeyError if it is none that `Weights` reads."""
        return _FORMATS[self.format]


def read_header(uri: str, remedy: str) -> dict[str, Stored]:
    """The tensors of a safetensors file, from its header: its length in 8 bytes, then JSON.

    Raises:
        Mistake: it is no such file, or not whole; ends with `remedy`.
    """
    size = storage.size_bytes(uri)
    with storage.open_file(uri) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        text = file.read(n_bytes) if n_bytes <= min(size, _MOST_HEADER_BYTES) else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((about["data_offsets"][1] for about in header.values()), default=0)
        tensors = {name: _stored(uri, about, 8 + n_bytes) for name, about in header.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Mistake(f"{uri} is no safetensors file, or its beginning is damaged; {remedy}") from None
    if 8 + n_bytes + end != size:
        raise Mistake(f"{uri} has {size:,} bytes, and its header speaks of {8 + n_bytes + end:,}; {remedy}")
    return tensors


def _stored(uri: str, about: dict[str, Any], begin: int) -> Stored:
    """A tensor of a header; ValueError if its shape does not take its bytes."""
    (start, stop), shape = about["data_offsets"], tuple(about["shape"])
    dtype = _FORMATS.get(about["dtype"])
    if dtype and stop - start != prod(shape) * dtype.itemsize:
        raise ValueError("another number of bytes")
    return Stored(uri, begin + start, about["dtype"], shape)


@dataclass(frozen=True)
class Weights(Mapping[str, torch.Tensor]):
    """Named tensors of safetensors files. Each is read when it is asked for, and none is kept."""

    tensors: Mapping[str, Stored]

    def __post_init__(self) -> None:
        odd = [(name, stored) for name, stored in self.tensors.items() if stored.format not in _FORMATS]
        if odd:
            name, stored = odd[0]
            raise Mistake(
                f"{stored.uri} holds {short(name, 80)} as {stored.format}; expected {', '.join(_FORMATS)}: "
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
        dtype = _FORMATS[stored.format]
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


def differences(found: Shapes, expected: Shapes) -> str:
    """The differences, the first of each kind; empty if none."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing ({missing[0]})")
    if extra:
        parts.append(f"{len(extra)} are of no such model ({short(extra[0], 80)})")
    if other:
        name = other[0]
        parts.append(f"{len(other)} have another shape ({name}: {found[name]}, expected {expected[name]})")
    return ", ".join(parts)
