"""What a machine keeps of published weights.

That is one copy of a folder on a store, and the hashes of large files. Both lie in `vitascope` in the user's
cache folder (XDG_CACHE_HOME, or ~/.cache), which others cannot write to. A copy is found by what its folder
holds: the names, sizes and versions of its files. The first process that needs it makes it, while others
wait; a process holds a copy until it ends, in whatever way. Whoever makes a copy first deletes what is left
of copies that were never finished, those that no process holds and that none has asked for in `UNUSED_DAYS`,
and, if the disk lacks room, all that no process holds.
"""

import fcntl
import functools
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from vitascope import copies, storage
from vitascope.errors import Mistake
from vitascope.records import stable_id
from vitascope.storage import Listed

UNUSED_DAYS = 7
_SPARE_BYTES = 1 << 30  # of the disk, left to others
_held: list[IO[bytes]] = []
"""Locks of the copies that this process uses."""


@functools.cache
def local_copy(folder: str) -> Path:
    """A local folder with the same files: the folder itself, or the machine's copy of one on a store.

    Raises:
        Mistake: the disk has no room for a copy.
    """
    if not storage.is_remote(folder):
        return Path(storage.absolute(folder))
    files, base = storage.listing(folder), cache_folder("weights")
    copy = base / stable_id(folder, *((file.uri, file.size_bytes, file.version) for file in files))
    lock = (base / f"{copy.name}.lock").open("ab")
    _held.append(lock)
    fcntl.flock(lock, fcntl.LOCK_SH)  # so that nobody deletes the copy from now on
    if not copy.is_dir():
        with (base / "making").open("ab") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            if not copy.is_dir():  # another may have made it meanwhile
                _make(copy, folder, files)
    os.utime(base / f"{copy.name}.lock")
    return copy


def remembered(key: str, compute: Callable[[], str]) -> str:
    """What `compute` gave on this machine for `key`, a short text; computed once."""
    note = str(cache_folder("hashes") / key)
    with suppress(OSError):
        if found := storage.read_bytes(note).decode(errors="replace"):
            return found
    computed = compute()
    storage.put(note, computed.encode())
    return computed


def cache_folder(name: str) -> Path:
    """This user's own folder for what can be made again; below the temporary folder if there is no home.

    Raises:
        Mistake: others could write into it.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitascope"
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        base.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        base = Path(tempfile.gettempdir()) / f"vitascope-{os.getuid()}"
        base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Mistake(f"{base} can be written by other users; chmod 700 it, or set XDG_CACHE_HOME to another")
    (base / name).mkdir(exist_ok=True)
    return base / name


def _make(copy: Path, folder: str, files: Sequence[Listed]) -> None:
    """Makes a copy, while no other process makes one."""
    _make_room(copy, folder, sum(file.size_bytes for file in files) + _SPARE_BYTES)
    unfinished = _unfinished(copy)
    for file in files:
        if not storage.is_within(file.uri, folder):
            raise Mistake(f"{file.uri} does not lie in {folder}; copy the folder again")
        copies.copy_file(file.uri, str(unfinished / file.uri.removeprefix(folder).lstrip("/")))
    unfinished.rename(copy)


def _unfinished(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.unfinished")


def _make_room(copy: Path, folder: str, n_bytes: int) -> None:
    """Deletes copies that are not held: old ones, and all others as long as `n_bytes` are lacking."""
    shutil.rmtree(_unfinished(copy), ignore_errors=True)
    base, long_ago = copy.parent, time.time() - 86_400 * UNUSED_DAYS
    for lock in sorted(base.glob("*.lock"), key=lambda path: path.stat().st_mtime):
        if lock.stem != copy.name and (lock.stat().st_mtime < long_ago or _free(base) < n_bytes):
            _delete(base / lock.stem, lock)
    if _free(base) < n_bytes:
        raise Mistake(
            f"{folder} is copied to {base}, which has {_free(base) / 2**30:.1f} GiB free of the "
            f"{n_bytes / 2**30:.1f} GiB needed; make room, or set XDG_CACHE_HOME to a larger disk"
        )


def _delete(copy: Path, lock: Path) -> None:
    """Deletes a copy unless a process holds it. Its lock stays, for which a process may be waiting."""
    with lock.open("ab") as held, suppress(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(_unfinished(copy), ignore_errors=True)


def _free(base: Path) -> int:
    return shutil.disk_usage(base).free
