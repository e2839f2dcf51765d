"""Members of tar files, read in place.

A member's location is the tar's, with the member's name and the bytes it takes after a `#`:
`s3://bucket/a.tar#000123.mp4@1536+20480`. So it is opened by reading those bytes alone, without looking
through the tar again.
"""

import io
import os
import posixpath
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import IO, Any

from vitascope import storage
from vitascope.wording import count

_LOCATION = re.compile(
    r"(?P<tar>.+\.tar)#(?P<name>.+)@(?P<start>\d+)\+(?P<size>\d+)", re.DOTALL | re.IGNORECASE
)
# A sample's texts follow its video within a few kilobytes, so that one request reads their headers, too.
_HEADERS_AT_ONCE = 64 << 10
_BLOCK = tarfile.BLOCKSIZE
# What is read of a tar at once beyond what was asked for; members up to this size are read whole.
_AT_ONCE_BYTES = 8 << 20
_MOST_LINKS = 40  # that are followed one after the other, as by Linux; so those in a circle end

_KINDS = {tarfile.FIFOTYPE: "named pipe", tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "device"}


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
class _Link:
    """A name within a tar for the file of another name."""

    name: str
    target: str
    hard: bool  # the file that has the other name at this place of the tar, else at its end


@dataclass(frozen=True)
class Index:
    """What a tar holds; if it is damaged, what comes before, and a word on the damage.

    passed: how many members were passed over, by kind.
    """

    members: tuple[Member, ...]
    damage: str | None = None
    passed: Mapping[str, int] = field(default_factory=dict)


def locate(uri: str) -> Member | None:
    """The member that a location means; None if it is a file of its own."""
    match = _LOCATION.fullmatch(uri)
    return match and Member(match["tar"], match["name"], int(match["start"]), int(match["size"]))


def shown(uri: str) -> str:
    """The name of what is at a location: the member's within its tar, else the location itself."""
    member = locate(uri)
    return member.name if member else uri


def list_members(uri: str) -> Index:
    """The plain files in a tar, in its order, from its headers alone; what they hold is skipped over.

    A link, hard or symbolic, is the file in the tar that it leads to, under its own name; the damage tells
    of those that cannot be followed. Of two with one name the later counts, as for who unpacks the tar, and
    the damage says so. Passed over and counted are pipes, devices, sparse files, what has a hidden name (a
    leading dot), what would be unpacked outside of the folder (`..`), and links to folders.
    """
    passed: Counter[str] = Counter()
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb", block_size=_HEADERS_AT_ONCE, cache_type="readahead") as file:
        size_bytes = int(fs.size(path))
        found, damage = _found(uri, file, size_bytes, passed)
    by_name, n_twice = _by_name(found)
    passed.update(kind for kind in map(_hidden_kind, by_name) if kind)
    ends = {name: _end(by_name, name) for name in by_name if not _is_hidden(name)}
    files = {name: file for name, end in ends.items() if isinstance(file := by_name.get(end), Member)}
    lost = [name for name in ends if name not in files]
    if lost:
        folders = {str(folder) for name in by_name for folder in PurePosixPath(name).parents}
        to_folders = [name for name in lost if ends[name] in folders]
        passed.update({"link to a folder": len(to_folders)} if to_folders else {})
        lost = [name for name in lost if ends[name] not in folders]
    damages = [damage] if damage else []
    if n_twice:
        damages.append(f"holds {count(n_twice, 'name')} twice, of which the later counts")
    if lost:
        links = count(len(lost), "link")
        damages.append(f"{links} cannot be followed: {lost[0]}{', …' if lost[1:] else ''}")
    members = tuple(replace(member, name=name) for name, member in files.items())
    return Index(members, "; ".join(damages) or None, passed)


def _by_name(found: list[Member | _Link]) -> tuple[dict[str, Member | _Link | None], int]:
    """What has each name in the end, None for a hard link to nothing; and how many had two, hidden apart."""
    by_name: dict[str, Member | _Link | None] = {}
    n_twice = 0
    for entry in found:
        what = by_name.get(entry.target) if isinstance(entry, _Link) and entry.hard else entry
        n_twice += by_name.get(entry.name, what) != what and not _is_hidden(entry.name)
        by_name[entry.name] = what
    return by_name, n_twice


def _end(by_name: dict[str, Member | _Link | None], name: str) -> str:
    """The name that a link leads to in the end; if links go in a circle, one of them."""
    for _ in range(_MOST_LINKS):
        what = by_name.get(name)
        if not isinstance(what, _Link):
            break
        name = what.target
    return name


def _found(
    uri: str, file: IO[bytes], size_bytes: int, passed: Counter[str]
) -> tuple[list[Member | _Link], str | None]:
    """The files and the links in a tar, in its order, hidden ones too; and what is wrong with it.

    Others are counted in `passed` by their kind, but for folders.
    """
    members: list[Member | _Link] = []
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for entry in tar:
                tar.members = []  # type: ignore[attr-defined] # tarfile would keep them, 2 KB each
                if entry.issym() or entry.islnk():
                    members.append(_link(entry))
                    continue
                if not entry.isreg() or entry.issparse():
                    if not entry.isdir():
                        passed["sparse file" if entry.issparse() else _KINDS.get(entry.type, "special")] += 1
                    continue
                if entry.offset_data + entry.size > size_bytes:
                    return members, f"ends within {_shown(entry.name)}"
                members.append(Member(uri, _shown(entry.name), entry.offset_data, entry.size))
            end = tar.offset
    except (tarfile.TarError, ValueError, OSError, MemoryError, OverflowError) as error:  # sizes may lie
        what = "is damaged" if members else "is no plain tar"
        return members, f"{what} ({type(error).__name__} {error})"
    return members, _damage_at(file, end)


def _link(entry: tarfile.TarInfo) -> _Link:
    """A symbolic link leads from where it is, or outside; a hard link is told by another member's name."""
    beside = posixpath.dirname(entry.name) if entry.issym() else ""
    root = "/" if entry.issym() and entry.linkname.startswith("/") else ""
    return _Link(_shown(entry.name), root + _shown(posixpath.join(beside, entry.linkname)), entry.islnk())


def _shown(name: str) -> str:
    """A member's name as it is once unpacked: `./a//b` and `/a/b` are `a/b`.

    Bytes that are not UTF-8 as backslash escapes, since it is opened by its place.
    """
    path = posixpath.normpath(name).lstrip("/")
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_hidden(name: str) -> bool:
    return not name or any(part.startswith(".") for part in name.split("/"))


def _hidden_kind(name: str) -> str | None:
    """Why a name is passed over; None if it is not."""
    if not _is_hidden(name):
        return None
    return "outside the folder (..)" if name.startswith("..") and name.split("/")[0] == ".." else "hidden"


def _damage_at(file: IO[bytes], offset: int) -> str | None:
    """Why there is no further header: tarfile takes a damaged one for the end, which is zeros or nothing."""
    file.seek(offset)
    block = file.read(_BLOCK)
    return f"is damaged at byte {offset}; what follows is not seen" if block.strip(b"\0") else None


def open_file(uri: str) -> IO[bytes]:
    """Opens a member of a tar, or a file of its own, for reading.

    Raises:
        OSError: it cannot be read, also if it is no file: a pipe would be waited for without end.
    """
    member = locate(uri)
    if member is None:
        if not storage.is_remote(uri) and not stat.S_ISREG(os.stat(storage.absolute(uri)).st_mode):
            raise OSError(f"{uri} is a folder, a pipe or a device, and no file")
        return storage.open_file(uri)
    fs, path = storage.filesystem(member.tar)
    if member.size_bytes == 0:
        return io.BytesIO()
    if member.size_bytes <= _AT_ONCE_BYTES:
        return io.BytesIO(fs.cat_file(path, start=member.start, end=member.start + member.size_bytes))
    file = fs.open(path, "rb", block_size=_AT_ONCE_BYTES, cache_type="readahead")
    return io.BufferedReader(_Window(file, member))


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
