"""Objects in the store: found by those who may, listed without being read."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitascope import storage
from vitascope.api.failures import Refused
from vitascope.api.store import objects
from vitascope.api.store.objects import (
    ADMIN,
    Asked,
    Objects,
    created_at,
    derived_id,
    kind_of,
    new_id,
    several,
)
from vitascope.api.store.records import Kind, Outcome, Progress, StoredFile


@pytest.fixture(params=["local", "s3"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """A new store."""
    return Objects(str(tmp_path) if request.param == "local" else request.getfixturevalue("s3") + "/run")


def file(owner: str, of: str | None = None, purpose: str = "batch") -> StoredFile:
    return StoredFile(id=of or new_id(Kind.FILE), owner=owner, filename="a", purpose=purpose, n_bytes=1)


def at(ms: int) -> str:
    return f"file_{ms:012x}{secrets.token_hex(10)}"


def test_ids() -> None:
    ids = [new_id(Kind.VIDEO) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {kind_of(of) for of in ids} == {Kind.VIDEO}
    assert created_at(at(1_700_000_000_999)) == 1_700_000_000
    assert (
        derived_id(Kind.IMAGE, ids[0], 1)
        == derived_id(Kind.IMAGE, ids[0], 1)
        != derived_id(Kind.IMAGE, ids[0], 2)
    )
    assert created_at(derived_id(Kind.IMAGE, ids[0], 1)) == created_at(ids[0])
    assert len(set(several(ids[0], 10))) == 10
    assert several(ids[0], 1) == ids[:1]
    for wrong in ("", "video_", ids[0] + "0", ids[0].upper(), ids[0] + "\n", "../" + ids[0], "key" + ids[0]):
        assert kind_of(wrong) is None


def test_an_object_is_found_by_its_owner_and_the_admin(kept: Objects) -> None:
    made = file("alice")
    assert kept.add(made)
    assert not kept.add(made)
    for owner in ("alice", ADMIN):
        assert kept.find(owner, made.id, Kind.FILE, StoredFile) == made
    for owner, of in (("bob", made.id), ("alice", new_id(Kind.FILE)), ("alice", "../" + made.id)):
        with pytest.raises(Refused) as raised:
            kept.find(owner, of, Kind.FILE, StoredFile)
        assert raised.value.status == 404


def test_from_pending_to_the_end_and_gone(kept: Objects) -> None:
    made = file("alice")
    kept.note("alice", made.id, Progress())
    kept.add(made)
    assert kept.all_pending() == kept.all_pending("alice") == [("alice", made.id)]
    assert kept.pending("alice", made.id, Progress) == Progress()
    storage.put(storage.join(kept.media("alice", made.id), "content"), b"x")
    kept.end("alice", made.id, Outcome(at=5, uri="x"))
    assert kept.all_pending() == []
    assert kept.outcome("alice", made.id, Outcome) == Outcome(at=5, uri="x")
    kept.forget("alice", made.id)
    kept.clean("alice", made.id)
    kept.clean("alice", made.id)
    assert not kept.exists("alice", made.id)
    assert storage.list_files(kept.root) == []


def test_pages(kept: Objects) -> None:
    day = 86_400_000
    ids = sorted(at(1_700_000_000_000 + i * day // 3) for i in range(12))
    for i, of in enumerate(ids):
        kept.add(file("alice" if i % 2 else "bob", of, "batch" if i < 4 else "vision"))

    def paged(owner: str, limit: int, **how: Any) -> tuple[list[str], bool]:
        found, more = kept.page(owner, Kind.FILE, StoredFile, Asked(limit, **how))
        return [one.id for one in found], more

    assert paged(ADMIN, 100) == (ids[::-1], False)
    assert paged(ADMIN, 12) == (ids[::-1], False)
    assert paged(ADMIN, 5, after=ids[7]) == (ids[6:1:-1], True)
    assert paged(ADMIN, 5, after=ids[7], order="asc") == (ids[8:], False)
    assert paged("alice", 3, order="asc") == (ids[1:7:2], True)
    assert paged("carol", 3) == ([], False)
    found, more = kept.page(ADMIN, Kind.FILE, StoredFile, Asked(3), keep=lambda one: one.purpose == "batch")
    assert ([one.id for one in found], more) == (ids[3:0:-1], True)


def test_a_page_reads_no_more_than_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, read = Objects(str(tmp_path)), []
    for i in range(2000):
        kept.add(file("alice", at(1_700_000_000_000 + i * 20_000)))
    get: Callable[..., Any] = objects._read
    monkeypatch.setattr(objects, "_read", lambda *asked: read.append(asked) or get(*asked))
    found, more = kept.page("alice", Kind.FILE, StoredFile, Asked(20))
    assert (len(found), more, len(read)) == (20, True, 21)
