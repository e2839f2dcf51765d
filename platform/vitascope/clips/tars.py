"""Members of tar files, read in place.

A member's location is the tar's, with the member's name and the bytes it takes after a `#`:
`s3://bucket/a.tar#000123.mp4@1536+20480`. So it is opened by reading those bytes alone, without looking
through the tar again. WebDataset's rule says what belongs together: members whose names are the same up to
the first dot of the last part.
"""

import io
import re
import tarfile
from dataclasses import dataclass
from typing import IO, Any

from vitascope import storage

_LOCATION = re.compile(
    r"(?P<tar>.+\.tar)#(?P<name>.+)@(?P<start>\d+)\+(?P<size>\d+)", re.DOTALL | re.IGNORECASE
)
# A sample's texts follow its video within a few kilobytes, so that one request reads their headers, too.
_HEADERS_AT_ONCE = 64 << 10
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A file within a tar: its name, and where its bytes lie."""

    tar: str
    name: str
    start: int
    size_bytes: int

    @property
    def uri(self) -> str:
        """Its location, which `open_file` and `locate` understand."""
        return f"{self.tar}#{self.name}@{self.start}+{self.size_bytes}"


@dataclass(frozen=True)
class Index:
    """What a tar holds; where it is damaged, what was found before, and a word on the damage."""

    members: tuple[Member, ...]
    damage: str | None = None


def is_tar(name: str) -> bool:
    """Whether a file's name says that it is a tar; compressed ones are none, having no bytes to point at."""
    return name.lower().endswith(".tar")


def key(name: str) -> str:
    """What a member shares with its captions: `a/000123` of `a/000123.seg.mp4` (WebDataset's rule)."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def locate(uri: str) -> Member | None:
    """The member that a location means; None where it is a file of its own."""
    match = _LOCATION.fullmatch(uri)
    return match and Member(match["tar"], match["name"], int(match["start"]), int(match["size"]))


def shown(uri: str) -> str:
    """The name of what is at a location: the member's within its tar, else the location itself."""
    member = locate(uri)
    return member.name if member else uri


def list_members(uri: str) -> Index:
    """The plain files in a tar, in its order, from its headers alone; what they hold is skipped over.

    Folders, links, devices and hidden files (a leading dot) are passed over.
    """
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb", block_size=_HEADERS_AT_ONCE, cache_type="readahead") as file:
        size_bytes = int(fs.size(path))
        return _index(uri, file, size_bytes)


def _index(uri: str, file: IO[bytes], size_bytes: int) -> Index:
    members: list[Member] = []
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for entry in tar:
                if not _is_plain(entry):
                    continue
                if entry.offset_data + entry.size > size_bytes:
                    return Index(tuple(members), f"ends within {entry.name}")
                members.append(Member(uri, entry.name.removeprefix("./"), entry.offset_data, entry.size))
            end = tar.offset
    except (tarfile.TarError, ValueError, OSError, MemoryError, OverflowError) as error:  # sizes may lie
        what = "is damaged" if members else "is no plain tar"
        return Index(tuple(members), f"{what} ({type(error).__name__} {error})")
    return Index(tuple(members), _damage_at(file, end))


def _is_plain(entry: tarfile.TarInfo) -> bool:
    hidden = any(part.startswith(".") for part in entry.name.removeprefix("./").split("/"))
    return entry.isreg() and not entry.issparse() and not hidden


def _damage_at(file: IO[bytes], offset: int) -> str | None:
    """Why there is no further header: tarfile takes a damaged one for the end, which is zeros or nothing."""
    file.seek(offset)
    block = file.read(_BLOCK)
    return f"is damaged at byte {offset}; what follows is not seen" if block.strip(b"\0") else None


def open_file(uri: str) -> IO[bytes]:
    """Opens a member of a tar, or a file of its own, for reading."""
    member = locate(uri)
    if member is None:
        return storage.open_file(uri)
    return io.BufferedReader(_Window(storage.open_file(member.tar), member))


class _Window(io.RawIOBase):
    """The bytes of a member within its tar, as a file."""

    def __init__(self, file: IO[bytes], member: Member) -> None:
        self._file, self._start, self._size = file, member.start, member.size_bytes
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}, before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(self._size - self._at, 0))
        self._file.seek(self._start + self._at)
        content = self._file.read(wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
