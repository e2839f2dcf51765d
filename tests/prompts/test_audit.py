"""The log of who asked for what: every row once, by many writers, for as long as it is wanted."""

import json
import multiprocessing
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vitascope import storage
from vitascope.prompts.audit import Asked, Audit

ASKED = Asked("key:studio", "1", 'a "cat"\nat night', "0" * 64, "ok")


def rows(folder: str) -> list[dict]:
    return [row for file in storage.list_files(folder) for row in storage.read_json_lines(file)]


def test_rows_are_committed_while_it_runs_and_at_the_end(tmp_path: Path) -> None:
    with Audit(str(tmp_path), 7, every_s=0.05) as audit:
        audit.add(ASKED)
        until = time.monotonic() + 30
        while not rows(str(tmp_path)) and time.monotonic() < until:
            time.sleep(0.05)
        (row,) = rows(str(tmp_path))
        audit.add(ASKED)
    assert len(rows(str(tmp_path))) == 2
    assert datetime.now(UTC) - datetime.fromisoformat(row.pop("time")) < timedelta(minutes=5)
    assert row == json.loads(json.dumps(vars(ASKED)))


def write(folder: str, who: str) -> None:
    with Audit(folder, 7, every_s=0.01) as audit:
        for i in range(200):
            audit.add(Asked(who, str(i), "a cat", "0" * 64, "ok"))


def test_many_writers_do_not_meet(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(str(tmp_path), f"key:{n}")) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    found = [(row["who"], row["custom_id"]) for row in rows(str(tmp_path))]
    assert len(found) == len(set(found)) == 600


def test_old_days_are_deleted_and_others_are_kept(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    names = [str(today - timedelta(days=n)) for n in (1, 2, 3, 400)] + ["mine"]
    for name in names:
        storage.put(str(tmp_path / name / "a.jsonl"), b"{}\n")
    with Audit(str(tmp_path), 3) as audit:
        audit.add(ASKED)
    assert {path.name for path in tmp_path.iterdir()} - {str(today)} == {*names[:2], "mine"}


def test_nothing_is_kept_by_default(tmp_path: Path) -> None:
    with Audit(str(tmp_path), 0) as audit:
        audit.add(ASKED)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_takes_nothing_is_an_error_and_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, put = Audit(str(tmp_path), 7, every_s=60), storage.put

    def fail(*_: object) -> None:
        raise OSError("no store")

    monkeypatch.setattr(storage, "put", fail)
    audit.add(ASKED)
    with pytest.raises(OSError, match="no store"):
        audit.flush()
    monkeypatch.setattr(storage, "put", put)
    audit.close()
    assert len(rows(str(tmp_path))) == 1


def test_the_log_is_kept_in_a_bucket(s3: str) -> None:
    old = datetime.now(UTC).date() - timedelta(days=9)
    storage.put(storage.join(s3, "audit", str(old), "a.jsonl"), b"{}\n")
    with Audit(storage.join(s3, "audit"), 7) as audit:
        audit.add(ASKED)
    (row,) = rows(storage.join(s3, "audit"))
    assert row["prompt"] == ASKED.prompt
