"""Files that only their owner may reach on a shared machine.

Ray makes its folders writable for every user (0777) and runs code in them, such as the packages of jobs. So
they go below a folder that nobody else can enter.
"""

import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from vitascope.errors import Mistake

# A socket's path has 107 bytes at most, and Ray appends up to 72:
# /session_2026-01-31_23-59-59_999999_4194304/sockets/dash_UsageStatsHead
_LONGEST = 107 - 72


def ray_folder(*, alone: bool = False) -> Path:
    """The folder of the sessions of a Ray cluster that is started here: `ray` in a folder of mode 0700.

    That folder is `ray-<uid>` in RAY_TMPDIR, or else in the first suitable one of TMPDIR, /tmp and ~/.ray. If
    the name is taken, or others can enter the folder, a new one with a random name replaces it.

    Args:
        alone: nobody else uses this machine, as in a pod, whose volumes are writable for all.

    Raises:
        Mistake: naming each folder that was tried, and why it is unsuitable: others could exchange it, it
            cannot be written, or its path is too long for sockets.
    """
    refused = []
    for base in _bases():
        try:
            return _below(base.resolve(), alone=alone)
        except OSError as error:
            refused.append(f"{base} cannot be written ({error.strerror})")
        except Mistake as error:
            refused.append(str(error))
    raise Mistake(
        f"Ray has no place for its files: {'; '.join(refused)}. "
        "Set RAY_TMPDIR to a folder with a short path that only you can write, or say "
        "cluster.allow_open=true if nobody else uses this machine"
    )


def write_token(path: Path) -> None:
    """Writes a new Ray token that is never readable for anyone but its owner; an existing one stays.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # of mode 0600
        file.write(secrets.token_hex(32))
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)


def _bases() -> list[Path]:
    if chosen := os.environ.get("RAY_TMPDIR"):
        return [Path(chosen)]
    usual = [os.environ.get("TMPDIR") or "/tmp", "/tmp", os.path.expanduser("~/.ray")]
    return [Path(base) for base in dict.fromkeys(usual) if base.startswith("/")]


def _below(base: Path, *, alone: bool) -> Path:
    if not alone and (folder := _exchangeable(base)):
        raise Mistake(f"other users can exchange what lies in {folder}")
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = _private_folder(base) / "ray"
    if (length := len(os.fsencode(folder))) > _LONGEST:
        raise Mistake(f"the path {folder} has {length} bytes, and its sockets leave {_LONGEST}")
    return folder


def _private_folder(base: Path) -> Path:
    folder = base / f"ray-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder if _is_private(folder) else Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=base))


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user that others cannot enter, and not a link to one."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _exchangeable(base: Path) -> Path | None:
    """The first folder on the way to `base` whose entries another user could exchange for their own."""
    trusted = _trusted()
    for folder in (*reversed(base.parents), base):
        with suppress(FileNotFoundError):  # then this user makes it
            status = folder.stat()
            shared = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
            if shared or status.st_uid not in trusted:
                return folder
    return None


def _trusted() -> set[int]:
    """Owners of folders who can be trusted: root, this user, and root outside a user namespace."""
    owners = {0, os.getuid()}
    with suppress(OSError):
        if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    return owners
