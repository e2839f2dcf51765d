"""One copy of remote weights for each machine, and which copies are deleted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitascope import storage
from vitascope.encode import machine, published
from vitascope.errors import Mistake

LONG_AGO = time.time() - 86_400 * 8
HOLDS = """
import sys, time
from vitascope.encode.machine import local_copy
print(local_copy(sys.argv[1]), flush=True)
time.sleep(600 * (len(sys.argv) > 2))
"""


@pytest.fixture(autouse=True)
def new_process() -> None:
    """Forgets what this process holds, as if it began."""
    machine.local_copy.cache_clear()
    published._content_hash.cache_clear()
    while machine._held:
        machine._held.pop().close()


@pytest.fixture
def remote(s3: str) -> str:
    """A folder of weights in a bucket."""
    storage.put(f"{s3}/wan/config.json", b"{}")
    storage.put(f"{s3}/wan/parts/weights", b"weights")
    return f"{s3}/wan"


@pytest.fixture
def base(own_cache: Path) -> Path:
    """The folder of the copies."""
    return own_cache / "vitascope" / "weights"


def process(folder: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS, folder, *arguments], stdout=subprocess.PIPE, text=True
    )


def other(base: Path, name: str, used_s: float) -> Path:
    """A copy that an ended process has left."""
    (base / name).mkdir(parents=True)
    (base / f"{name}.lock").touch()
    os.utime(base / f"{name}.lock", (used_s, used_s))
    return base / name


def test_processes_share_one_copy_and_a_changed_folder_has_another(remote: str, base: Path) -> None:
    at_once = [process(remote) for _ in range(2)]
    paths = {Path(str(child.communicate()[0]).strip()) for child in at_once}
    (copy,) = paths
    assert copy.parent == base
    assert base.parent.stat().st_mode & 0o077 == 0
    assert (copy / "parts" / "weights").read_bytes() == b"weights"
    made = (copy / "parts" / "weights").stat()
    assert machine.local_copy(remote) == copy
    assert (copy / "parts" / "weights").stat().st_ino == made.st_ino
    storage.put(f"{remote}/parts/weights", b"others!")
    machine.local_copy.cache_clear()
    assert (machine.local_copy(remote) / "parts" / "weights").read_bytes() == b"others!"


def test_what_was_never_finished_is_made_again(remote: str, base: Path) -> None:
    copy = machine.local_copy(remote)
    machine.local_copy.cache_clear()
    copy.rename(copy.with_name(f"{copy.name}.unfinished"))
    (base / f"{copy.name}.unfinished" / "parts" / "weights").write_bytes(b"wei")
    assert (machine.local_copy(remote) / "parts" / "weights").read_bytes() == b"weights"
    assert {path.name for path in base.iterdir()} == {copy.name, f"{copy.name}.lock", "making"}


def test_a_new_copy_takes_the_place_of_those_unused_for_long_unless_they_are_held(
    remote: str, s3: str, base: Path
) -> None:
    with process(remote, "stay") as child:
        assert child.stdout
        held = Path(child.stdout.readline().strip())
        os.utime(f"{held}.lock", (LONG_AGO, LONG_AGO))
        old, fresh = other(base, "old", LONG_AGO), other(base, "fresh", time.time())
        storage.put(f"{s3}/second/a", b"a")
        machine.local_copy(f"{s3}/second")
        assert (held.exists(), old.exists(), fresh.exists()) == (True, False, True)
        child.send_signal(signal.SIGKILL)
        child.wait()
    storage.put(f"{s3}/third/a", b"a")
    machine.local_copy(f"{s3}/third")
    assert (held.exists(), fresh.exists()) == (False, True)


def test_if_room_is_lacking_copies_in_no_use_go_and_then_it_is_said(
    remote: str, s3: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, fresh = machine.local_copy(remote), other(base, "fresh", time.time())
    monkeypatch.setattr(machine, "_free", lambda folder: (2 - (folder / "fresh").exists()) << 30)
    storage.put(f"{s3}/second/a", b"a")
    monkeypatch.setattr(machine, "_SPARE_BYTES", 3 << 29)
    assert machine.local_copy(f"{s3}/second").exists()
    assert (mine.exists(), fresh.exists()) == (True, False)
    monkeypatch.setattr(machine, "_SPARE_BYTES", 3 << 30)
    storage.put(f"{s3}/third/a", b"a")
    with pytest.raises(Mistake, match=r"third is copied to .*, which has 2\.0 GiB free of the 3\.0 GiB"):
        machine.local_copy(f"{s3}/third")


def test_a_cache_that_others_can_write_is_refused(remote: str, own_cache: Path) -> None:
    (own_cache / "vitascope").mkdir()
    (own_cache / "vitascope").chmod(0o777)
    with pytest.raises(Mistake, match="can be written by other users; chmod 700 it"):
        machine.local_copy(remote)


def test_without_a_home_the_temporary_folder_takes_its_place(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    assert machine.local_copy(remote).parent == tmp_path / f"vitascope-{os.getuid()}" / "weights"


def test_a_large_file_is_hashed_whole_and_once_by_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = published.checksum.digest
    monkeypatch.setattr(published.checksum, "digest", lambda uri: hashed.append(uri) or digest(uri))
    monkeypatch.setattr(published, "_LARGE_BYTES", 1 << 10)
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(1 << 20))
    found = [published.content_hash(str(weights)) for _ in range(2)]
    published._content_hash.cache_clear()
    found.append(published.content_hash(str(weights)))
    assert (len(set(found)), len(hashed)) == (1, 1)
    before = weights.stat()
    with weights.open("r+b") as file:
        file.seek(700_001)
        file.write(b"\1")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert published.content_hash(str(weights)) != found[0]
    assert published.content_hash(str(weights)) == digest(str(weights))
