"""The headers of safetensors files.

A damaged or truncated file is noticed by its header, without reading the weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.wording import short

Shapes = Mapping[str, tuple[int, ...]]
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Of a number in each format that weights have; others are of quantised ones."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of weights that could run code when they are loaded."""

_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class Stored:
    """The position of a tensor: its file, its first byte there, its number format and its shape."""

    uri: str
    start: int
    format: str
    shape: tuple[int, ...]


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
        raise Mistake(f"{uri} is not a safetensors file, or its beginning is damaged; {remedy}") from None
    if 8 + n_bytes + end != size:
        raise Mistake(f"{uri} has {size:,} bytes, and its header describes {8 + n_bytes + end:,}; {remedy}")
    return tensors


def _stored(uri: str, about: dict[str, Any], begin: int) -> Stored:
    """A tensor of a header; ValueError if its shape does not take its bytes."""
    (start, stop), shape = about["data_offsets"], tuple(about["shape"])
    n_bytes = BYTES.get(about["dtype"])
    if n_bytes and stop - start != prod(shape) * n_bytes:
        raise ValueError("another number of bytes")
    return Stored(uri, begin + start, about["dtype"], shape)


def stored_shapes(uri: str, remedy: str) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file; raises as `read_header` does."""
    return {name: stored.shape for name, stored in read_header(uri, remedy).items()}


def differences(found: Shapes, expected: Shapes) -> str:
    """The differences, the first of each kind; empty if none."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    parts = []
    if missing:
        parts.append(f"{len(missing)} weights are missing ({missing[0]})")
    if extra:
        parts.append(f"{len(extra)} do not belong to this model ({short(extra[0], 80)})")
    if other:
        name = other[0]
        parts.append(f"{len(other)} have another shape ({name}: {found[name]}, expected {expected[name]})")
    return ", ".join(parts)
