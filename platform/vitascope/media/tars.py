"""Members of tar files, read in place.

The location of a member is the tar's, then a `#`, the member's name and its bytes:
`s3://bucket/a.tar#000123.mp4@1536+20480`. So opening it reads those bytes alone. fsspec's TarFileSystem lists
the whole tar again in each process that opens a member; tarfile, which lists it here, follows no links so.
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
_AT_ONCE_BYTES = 8 << 20  # read ahead within a member; smaller members are read whole
_MOST_LINKS = 40  # followed one after the other, as by Linux; so a circle of links ends

_KINDS = {tarfile.FIFOTYPE: "named pipe", tarfile.CHRTYPE: "device", tarfile.BLKTYPE: "device"}


@dataclass(frozen=True)
class Member:
    """A file within a tar: its name and the position of its bytes."""

    tar: str
    name: str
    start: int
    size_bytes: int

    @property
    def uri(self) -> str:
        """Its location, which `open_file` and `locate` take."""
        return f"{self.tar}#{self.name}@{self.start}+{self.size_bytes}"


@dataclass(frozen=True)
class _Link:
    """A second name, within a tar, of another file."""

    name: str
    target: str
    hard: bool  # the file that the target names at this position in the tar, else at its end


_Entry = Member | _Link


@dataclass(frozen=True)
class Index:
    """The members of a tar, up to its damage if it has any; and the number of skipped ones by kind."""

    members: tuple[Member, ...]
    damage: str | None = None
    passed: Mapping[str, int] = field(default_factory=dict)


def locate(uri: str) -> Member | None:
    """The member at a location; None if the location is a whole file's."""
    match = _LOCATION.fullmatch(uri)
    return match and Member(match["tar"], match["name"], int(match["start"]), int(match["size"]))


def shown(uri: str) -> str:
    """The name of a member within its tar; of a whole file, its location."""
    member = locate(uri)
    return member.name if member else uri


def list_members(uri: str) -> Index:
    """The plain files in a tar, in its order, from its headers alone.

    A link, hard or symbolic, is the file in the tar that it leads to, under its own name; the damage lists
    links that lead nowhere. Of two members with one name the later counts, as when the tar is unpacked, and
    the damage says so. Passed over and counted are pipes, devices, sparse files, hidden names (a leading
    dot), names that would be unpacked outside the folder (`..`), and links to folders.
    """
    passed: Counter[str] = Counter()
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb", block_size=_HEADERS_AT_ONCE, cache_type="readahead") as file:
        entries, damage = _entries(uri, file, int(fs.size(path)), passed)
    by_name, n_twice = _by_name(entries)
    hidden = {name: kind for name in by_name if (kind := _hidden_kind(name))}
    passed.update(hidden.values())
    ends = {name: _end(by_name, name) for name in by_name if name not in hidden}
    files = {name: file for name, end in ends.items() if isinstance(file := by_name.get(end), Member)}
    if lost := [name for name in ends if name not in files]:
        folders = {str(folder) for name in by_name for folder in PurePosixPath(name).parents}
        passed.update("link to a folder" for name in lost if ends[name] in folders)
        lost = [name for name in lost if ends[name] not in folders]
    damages = [damage] if damage else []
    if n_twice:
        damages.append(f"holds {count(n_twice, 'name')} twice, of which the later counts")
    if lost:
        links = count(len(lost), "link")
        damages.append(f"{links} cannot be followed: {lost[0]}{', …' if lost[1:] else ''}")
    members = tuple(replace(member, name=name) for name, member in files.items())
    return Index(members, "; ".join(damages) or None, passed)


def _by_name(entries: list[_Entry]) -> tuple[dict[str, _Entry | None], int]:
    """The last entry of each name, None for a hard link to nothing; and how many visible names had two."""
    by_name: dict[str, _Entry | None] = {}
    n_twice = 0
    for each in entries:
        entry = by_name.get(each.target) if isinstance(each, _Link) and each.hard else each
        n_twice += by_name.get(each.name, entry) != entry and not _hidden_kind(each.name)
        by_name[each.name] = entry
    return by_name, n_twice


def _end(by_name: Mapping[str, _Entry | None], name: str) -> str:
    """The name that a link leads to in the end; if links go in a circle, one of them."""
    for _ in range(_MOST_LINKS):
        entry = by_name.get(name)
        if not isinstance(entry, _Link):
            break
        name = entry.target
    return name


def _entries(
    uri: str, file: IO[bytes], size_bytes: int, passed: Counter[str]
) -> tuple[list[_Entry], str | None]:
    """The files and links in a tar, in its order, hidden ones too; and its damage.

    Others, except folders, are counted in `passed` by kind.
    """
    entries: list[_Entry] = []
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined] # tarfile would keep them, 2 KB each
                if info.issym() or info.islnk():
                    entries.append(_link(info))
                elif info.isreg() and not info.issparse():
                    if info.offset_data + info.size > size_bytes:
                        return entries, f"ends within {_shown(info.name)}"
                    entries.append(Member(uri, _shown(info.name), info.offset_data, info.size))
                elif not info.isdir():
                    passed["sparse file" if info.issparse() else _KINDS.get(info.type, "special")] += 1
            end = tar.offset
    except (tarfile.TarError, ValueError, OSError, MemoryError, OverflowError) as error:  # sizes may lie
        damage = "is damaged" if entries else "is no plain tar"
        return entries, f"{damage} ({type(error).__name__} {error})"
    return entries, _damage_at(file, end)


def _link(info: tarfile.TarInfo) -> _Link:
    """A symbolic link leads on from its own folder, or from the root; a hard link names another member."""
    folder = posixpath.dirname(info.name) if info.issym() else ""
    root = "/" if info.issym() and info.linkname.startswith("/") else ""
    return _Link(_shown(info.name), root + _shown(posixpath.join(folder, info.linkname)), info.islnk())


def _shown(name: str) -> str:
    """A member's name as unpacked: `./a//b` and `/a/b` are `a/b`; bytes that are not UTF-8 are escaped."""
    path = posixpath.normpath(name).lstrip("/")
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _hidden_kind(name: str) -> str | None:
    """Why a name is skipped; None if it is not."""
    parts = name.split("/")
    if parts[0] == "..":
        return "outside the folder (..)"
    return "hidden" if not name or any(part.startswith(".") for part in parts) else None


def _damage_at(file: IO[bytes], offset: int) -> str | None:
    """Why no further header follows: tarfile takes a damaged one for the end, which is zeros or nothing."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    return f"is damaged at byte {offset}; what follows is not seen" if block.strip(b"\0") else None


def open_file(uri: str) -> IO[bytes]:
    """Opens a member of a tar, or a whole file, for reading.

    Raises:
        OSError: it cannot be read, or is no file: reading a pipe might wait without end.
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
