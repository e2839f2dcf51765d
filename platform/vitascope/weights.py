"""The header of a safetensors file.

A truncated or damaged file is detected by it, without reading the weights.
"""

import json

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.wording import short

_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
Shapes = dict[str, tuple[int, ...]]


def stored_shapes(uri: str, remedy: str) -> Shapes:
    """The shapes in a safetensors file, from its header: its length in 8 bytes, then JSON.

    Raises:
        Mistake: it is another file, or damaged, or not whole; `remedy` ends the sentence.
    """
    size = storage.size_bytes(uri)
    with storage.open_file(uri) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        text = file.read(n_bytes) if n_bytes <= min(size, _MOST_HEADER_BYTES) else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((about["data_offsets"][1] for about in header.values()), default=0)
        shapes = {name: tuple(about["shape"]) for name, about in header.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Mistake(f"{uri} is no safetensors file, or its beginning is damaged; {remedy}") from None
    if 8 + n_bytes + end != size:
        raise Mistake(f"{uri} has {size:,} bytes, and its header speaks of {8 + n_bytes + end:,}; {remedy}")
    return shapes


def differences(stored: Shapes, expected: Shapes) -> str:
    """The differences, the first of each kind; empty if none."""
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & stored.keys() if expected[name] != stored[name])
    sentences = []
    if missing:
        sentences.append(f"{len(missing)} weights are missing ({missing[0]})")
    if extra:
        sentences.append(f"{len(extra)} are of no such model ({short(extra[0], 80)})")
    if other:
        name = other[0]
        sentences.append(
            f"{len(other)} have another shape ({name}: {stored[name]}, expected {expected[name]})"
        )
    return ", ".join(sentences)
