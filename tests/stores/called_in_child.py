"""The tests' functions in a decoding process."""

from vitascope import storage
from vitascope.stores import patience
from vitascope.stores import s3 as amazon


def prepare(uri: str, block_bytes: int, **patience_values: float) -> None:
    """Gives the process little patience and small requests, and loads and connects its client."""
    for name, value in patience_values.items():
        setattr(patience, name, value)
    amazon.AHEAD_BYTES = block_bytes
    storage.exists(uri)
