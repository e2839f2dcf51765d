"""Ray's files on a shared machine: their location, and what another user can do with them."""

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common.utils import try_to_create_directory

from cluster.other_user import OTHER, needs_root, successes
from vitascope.cluster import private
from vitascope.cluster.private import ray_folder, write_token

LONGEST_SOCKET = "session_2026-01-31_23-59-59_999999_4194304/sockets/dash_UsageStatsHead"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a short path, as /tmp is: for all, and each may only touch their own."""
    folder = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    folder.chmod(0o1777)
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


def is_private(folder: Path) -> bool:
    found = folder.lstat()
    return (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.getuid(), 0o700)


def test_rays_folder_is_the_same_each_time_below_one_that_is_the_users_alone(base: Path) -> None:
    folder = ray_folder()
    assert folder == base / f"ray-{os.getuid()}" / "ray"
    assert is_private(folder.parent)
    assert ray_folder() == folder


def test_a_folder_whatever_the_umask(base: Path) -> None:
    before = os.umask(0)
    try:
        assert is_private(ray_folder().parent)
    finally:
        os.umask(before)
    assert base.is_dir()


@pytest.mark.parametrize("trap", ["link", "link to nothing", "file", "open folder", "group's folder"])
def test_what_is_already_there_and_not_private_is_not_used(trap: str, base: Path) -> None:
    taken, elsewhere = base / f"ray-{os.getuid()}", base / "elsewhere"
    if trap.startswith("link"):
        taken.symlink_to(elsewhere)
        if trap == "link":
            elsewhere.mkdir(mode=0o700)
    elif trap == "file":
        taken.touch(mode=0o700)
    else:
        taken.mkdir()
        taken.chmod(0o777 if trap == "open folder" else 0o770)
    folder = ray_folder()
    assert folder.parent != taken
    assert folder.parent.parent == base
    assert is_private(folder.parent)
    assert list(elsewhere.glob("*")) == []


@needs_root
def test_a_folder_that_another_user_has_made_first_is_not_used(base: Path) -> None:
    taken = base / f"ray-{os.getuid()}"
    taken.mkdir(mode=0o700)
    os.chown(taken, OTHER, OTHER)
    assert ray_folder().parent != taken
    assert is_private(ray_folder().parent)


def test_a_folder_whose_entries_anybody_can_exchange_is_refused(base: Path) -> None:
    base.chmod(0o777)  # not sticky
    with pytest.raises(ValueError, match=rf"exchange what lies in {base}.*Set RAY_TMPDIR"):
        ray_folder()
    below = base / "below"
    below.mkdir(mode=0o700)
    os.environ["RAY_TMPDIR"] = str(below)  # the fixture's monkeypatch puts it back
    with pytest.raises(ValueError, match=rf"exchange what lies in {base}\."):
        ray_folder()
    assert list(below.iterdir()) == []
    assert is_private(ray_folder(alone=True).parent)


@needs_root
def test_a_folder_of_another_user_is_refused(base: Path) -> None:
    os.chown(base, OTHER, OTHER)
    with pytest.raises(ValueError, match=f"exchange what lies in {base}"):
        ray_folder()


def test_a_path_that_is_too_long_for_sockets_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / ("x" * 60)))
    with pytest.raises(ValueError, match=r"has \d+ bytes, and its sockets leave 35.*Set RAY_TMPDIR"):
        ray_folder()


def test_the_longest_path_that_is_taken_leaves_room_for_the_longest_socket() -> None:
    assert len(f"/{LONGEST_SOCKET}") + private._LONGEST <= 107


@pytest.mark.parametrize("wrong", ["too long", "exchangeable"])
def test_a_usual_folder_that_will_not_do_gives_way_to_the_next(
    wrong: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TMPDIR may be long, and /tmp of a pod is writable for all; nobody has chosen those for Ray."""
    monkeypatch.delenv("RAY_TMPDIR")
    base.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(base if wrong == "exchangeable" else base / ("x" * 60)))
    assert ray_folder().parent.parent == Path("/tmp")


def test_a_folder_that_is_not_there_yet_is_made(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / "new"))
    assert ray_folder().parent.parent == base / "new"


def test_a_folder_that_cannot_be_written_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(base / "file"))
    with pytest.raises(ValueError, match=f"{base}/file cannot be written.*Set RAY_TMPDIR"):
        ray_folder()


def test_a_token_is_never_readable_for_others_and_written_once(tmp_path: Path) -> None:
    before, token = os.umask(0), tmp_path / "home" / ".ray" / "auth_token"
    try:
        writers = [threading.Thread(target=write_token, args=(token,)) for _ in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    finally:
        os.umask(before)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert list(token.parent.iterdir()) == [token]
    text = token.read_text()
    assert len(text) == 64
    write_token(token)
    assert token.read_text() == text


@needs_root
def test_where_ray_puts_its_folders_by_itself_another_user_does_as_they_like(base: Path) -> None:
    """What the attempts are worth which fail elsewhere."""
    session = base / "ray" / "session"
    for folder in (session.parent, session, session / "runtime_resources", session / "logs"):
        try_to_create_directory(str(folder))
    (session / "logs" / "raylet.out").touch()
    worked = successes(session, session.parent)
    for attempt in ("cat {}/logs/raylet.out", "touch {}/runtime_resources/added", "mv {0} {0}.moved"):
        assert attempt.format(session) in worked
