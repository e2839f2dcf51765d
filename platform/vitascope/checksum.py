"""Files with their SHA-256 next to them.

`weights.safetensors` has a `weights.safetensors.sha256`, as `sha256sum` writes and checks it.
"""

import hashlib
from typing import IO

from vitascope import storage
from vitascope.errors import Mistake

_PART_BYTES = 8 * 2**20


def seal(uri: str) -> None:
    """Commits the checksum of a file next to it."""
    storage.put(_beside(uri), f"{digest(uri)}  {uri.rpartition('/')[2]}\n".encode())


def recorded(uri: str) -> str:
    """The checksum that was committed with a file.

    Raises:
        Mistake: it is missing.
    """
    words = storage.read_bytes(_beside(uri)).split() if storage.exists(_beside(uri)) else []
    if not words:
        raise Mistake(
            f"{uri} has no checksum; if you trust the file, write one: sha256sum FILE > FILE.sha256"
        )
    return words[0].decode(errors="replace")


def check(uri: str) -> None:
    """Reads a whole file and compares its checksum.

    Raises:
        Mistake: the file differs from the one that was written, or has no checksum.
    """
    _compare(uri, digest(uri))


def read(uri: str) -> bytes:
    """The whole content of a file, fetched once and checked; raises as `check` does."""
    content = storage.read_bytes(uri)
    _compare(uri, hashlib.sha256(content).hexdigest())
    return content


class Hashed:
    """A file that is read from its beginning to its end once, and compared with its checksum."""

    def __init__(self, uri: str, file: IO[bytes]) -> None:
        self._uri, self._file, self._sha256 = uri, file, hashlib.sha256()

    def read(self, n_bytes: int) -> bytes:
        """The next `n_bytes`."""
        part = self._file.read(n_bytes)
        self._sha256.update(part)
        return part

    def check(self) -> None:
        """Reads what is left; raises as `checksum.check` does."""
        while self.read(_PART_BYTES):
            pass
        _compare(self._uri, self._sha256.hexdigest())


def _compare(uri: str, digest: str) -> None:
    expected = recorded(uri)
    if digest != expected:
        raise Mistake(f"{uri} is damaged or was changed: its SHA-256 is {digest}, expected {expected}")


def digest(uri: str) -> str:
    """The SHA-256 of a file, which is read a part at a time."""
    sha256 = hashlib.sha256()
    with storage.open_file(uri) as file:
        while part := file.read(_PART_BYTES):
            sha256.update(part)
    return sha256.hexdigest()


def _beside(uri: str) -> str:
    return f"{uri}.sha256"
