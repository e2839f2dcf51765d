"""Files come through whole, and commits have one winner, on a store that fails."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from stores.faulty import FAULTS, SPOILS, FaultyProxy
from stores.rgw import Rgw
from vitascope import storage
from vitascope.stores import patience
from vitascope.stores import s3 as amazon
from vitascope.stores.patience import Unavailable

TABLE = pa.table({"x": list(range(1000))})


@pytest.mark.parametrize(("fault", "moment"), SPOILS)
def test_every_call_outlasts_a_failure(fault: str, moment: str, proxy: FaultyProxy, s3: str) -> None:
    location, table = f"{s3}/in/file", f"{s3}/in/t.parquet"
    storage.put(location, b"content")
    storage.put_table(table, TABLE)

    def after(verb: str, call: Callable[[], object]) -> object:
        proxy.next = [(verb, fault, moment)]
        result = call()
        assert proxy.next == [], "the failure was not met"
        return result

    assert after("GET", lambda: storage.read_bytes(location)) == b"content"
    with storage.open_file(location) as file:
        assert after("GET", lambda: file.read(4)) == b"cont"
    assert after("GET", lambda: storage.read_table(table)) == TABLE
    fs, path = storage.arrow_filesystem(f"{s3}/in")
    found = after("GET", lambda: fs.get_file_info(pafs.FileSelector(path)))
    assert [info.base_name for info in found] == ["file", "t.parquet"]
    assert after("HEAD", lambda: storage.size_bytes(location)) == 7
    assert after("HEAD", lambda: storage.exists(location)) is True
    assert after("GET", lambda: storage.list_files(s3)) == [location, table]
    after("PUT", lambda: storage.put(location, b"other"))
    assert storage.read_bytes(location) == b"other"
    assert after("PUT", lambda: storage.create(f"{s3}/new", b"new")) is True
    assert after("PUT", lambda: storage.create(f"{s3}/new", b"new")) is False
    after("POST", lambda: storage.delete(f"{s3}/in"))
    assert storage.list_files(s3) == [f"{s3}/new"]


def test_a_large_file_is_read_whole_though_its_ranges_break_off(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 2**10 * 6
    storage.put(f"{s3}/large", content)
    monkeypatch.setattr(amazon, "AHEAD_BYTES", 2**20)
    proxy.next = [("GET", "reset", "midway"), ("GET", "stall", "midway")]
    assert storage.read_bytes(f"{s3}/large") == content
    assert proxy.next == []


@pytest.mark.parametrize("fault", FAULTS)
def test_who_created_knows_it_though_the_answer_was_lost(fault: str, proxy: FaultyProxy, s3: str) -> None:
    proxy.next = [("PUT", fault, "lost")]
    assert storage.create(f"{s3}/commit", b"the same") is True
    assert storage.create(f"{s3}/commit", b"the same") is False, "equal content does not make a winner"


def test_who_did_not_create_knows_it_though_the_answer_was_lost(proxy: FaultyProxy, s3: str) -> None:
    storage.create(f"{s3}/commit", b"the same")
    proxy.next = [("PUT", "reset", "lost")]
    assert storage.create(f"{s3}/commit", b"the same") is False


def test_who_created_on_google_knows_it_though_the_answer_was_lost(
    gs: str,
    gs_server: str,
    quick: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vitascope.stores import gs as google

    google.Store.clear_instance_cache()
    with FaultyProxy(int(gs_server.rpartition(":")[2])).running() as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.endpoint)
        proxy.next = [("POST", "reset", "lost"), ("POST", "stall", "before")]
        assert storage.create(f"{gs}/commit", b"the same") is True
        assert storage.create(f"{gs}/commit", b"the same") is False
        proxy.next = [("GET", "503", "before"), ("GET", "stall", "midway")]
        assert storage.read_bytes(f"{gs}/commit") == b"the same"
        assert proxy.next == []
    google.Store.clear_instance_cache()


def test_what_will_not_pass_is_raised_at_once(proxy: FaultyProxy, s3: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{s3}/none")
    proxy.seen.clear()
    proxy.next = [("PUT", "403", "before")]
    with pytest.raises(PermissionError):
        storage.put(f"{s3}/x", b"-")
    assert proxy.seen == {("PUT", "403"): 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_patience_ends(fault: str, proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(f"{s3}/file", b"content")
    file = storage.open_file(f"{s3}/file")
    monkeypatch.setattr(patience, "BUDGET_S", 1.5)
    proxy.share, proxy.faults = 1.0, (fault,)
    name = s3.removeprefix("s3://")
    calls = {
        f"put_object s3://{name}/x": lambda: storage.put(f"{s3}/x", b"-"),
        f"head_object s3://{name}/file": lambda: storage.read_bytes(f"{s3}/file"),
        f"get_object s3://{name}/file": lambda: file.read(),
        f"list_objects_v2 s3://{name}/a/": lambda: storage.list_files(f"{s3}/a"),
    }
    for what, call in calls.items():
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"{what} failed [0-9]+ times in [0-9]+ s"):
            call()
        assert time.monotonic() - begun < 120  # by default it is patient for 300 s


def test_it_is_said_once_that_a_store_fails_though_many_requests_do(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "_SILENT_S", 0.3)
    monkeypatch.setattr(patience, "_warned", False)
    storage.put(f"{s3}/file", b"content")
    proxy.next = [("HEAD", "503", "before")]
    assert storage.exists(f"{s3}/file")
    assert caplog.records == []  # it has passed before anybody noticed
    monkeypatch.setattr(patience, "BUDGET_S", 2.0)
    proxy.share, proxy.faults = 1.0, ("503",)
    for _ in range(2):
        with pytest.raises(Unavailable):
            storage.exists(f"{s3}/file")
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(
        rf"the store at {s3} does not answer as it should \(.+\); trying until \d\d:\d\d:\d\d", said
    )


@pytest.mark.parametrize("from_file", [False, True])
def test_a_large_put_is_whole_though_a_part_and_the_completion_failed(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_file: bool
) -> None:
    _small_parts(monkeypatch)

    def put(content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        storage.put(f"{s3}/large", tmp_path / "file" if from_file else content)

    content = bytes(range(256)) * 4096 * 13
    proxy.next = [("POST", "reset", "lost"), ("PUT", "503", "before"), ("PUT", "stall", "lost")]
    put(content)
    proxy.next = [
        ("POST", "", ""),
        ("POST", "reset", "lost"),
    ]  # passes at its beginning, is lost at its end
    put(content[::-1])
    assert proxy.next == []
    assert storage.read_bytes(f"{s3}/large") == content[::-1]


def test_a_large_put_that_fails_leaves_what_was_there(
    proxy: FaultyProxy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_parts(monkeypatch)
    storage.put(f"{s3}/large", b"before")
    monkeypatch.setattr(patience, "BUDGET_S", 1.0)
    monkeypatch.setattr(patience, "SLOWEST_BYTES_PER_S", 2**30)
    proxy.next = [("PUT", "", ""), ("PUT", "", "")] + [("PUT", "500", "before")] * 100
    with pytest.raises(Unavailable, match="upload_part"):
        storage.put(f"{s3}/large", bytes(13 * 2**20))
    assert storage.read_bytes(f"{s3}/large") == b"before"
    fs, bucket = storage.filesystem(s3)
    assert fs.list_multipart_uploads(bucket) == []


def test_a_writer_killed_in_the_middle_of_a_large_put_leaves_what_was_there(
    proxy: FaultyProxy, s3: str
) -> None:
    storage.put(f"{s3}/large", b"before")
    write = "import sys; from vitascope import storage; storage.put(sys.argv[1], bytes(70 * 2**20))"
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    proxy.next = [("PUT", "", ""), ("PUT", "", ""), ("PUT", "stall", "lost")]
    writer = subprocess.Popen([sys.executable, "-c", write, f"{s3}/large"], env=os.environ | path)
    while proxy.seen["PUT", "stall"] == 0:
        assert writer.poll() is None
        time.sleep(0.1)
    writer.kill()
    writer.wait()
    assert storage.read_bytes(f"{s3}/large") == b"before"


def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon, "PART_BYTES", 5 * 2**20)  # no store takes smaller ones


def test_what_the_store_did_not_delete_is_deleted_again_or_told(proxy: FaultyProxy, s3: str) -> None:
    """S3 answers 200 to the deletion of many, with the failures inside."""
    storage.put(f"{s3}/in/file", b"-")
    proxy.next = [("POST", "not to be deleted", "before")]
    with pytest.raises(PermissionError):
        storage.delete(f"{s3}/in")
    proxy.next = [("POST", "not deleted", "before")]
    storage.delete(f"{s3}/in")
    assert not storage.exists(f"{s3}/in/file")


def test_many_threads_lose_nothing(proxy: FaultyProxy, s3: str) -> None:
    proxy.share = 0.1
    work(s3, n_threads=8, n_rounds=6)
    assert sum(n for (_, fault), n in proxy.seen.items() if fault) > 20


def work(root: str, n_threads: int, n_rounds: int) -> None:
    """Threads that put, race to create, read and list; fails if anything is lost, torn or won twice."""
    shared = f"{root}/shared"
    valid = {bytes([i]) * 100_000 for i in range(n_threads)}
    storage.put(shared, next(iter(valid)))
    together = threading.Barrier(n_threads, timeout=400)

    def thread(i: int) -> list[bool]:
        won = []
        for n in range(n_rounds):
            together.wait()
            won.append(storage.create(f"{root}/commits/{n}", f"{i} won".encode()))
            storage.put(f"{root}/own/{i}/{n}", bytes([i, n]) * 1000)
            storage.put(shared, bytes([i]) * 100_000)
            assert storage.read_bytes(shared) in valid
            assert storage.read_bytes(f"{root}/own/{i}/{n}") == bytes([i, n]) * 1000
            assert len(storage.list_files(f"{root}/own/{i}")) == n + 1
        return won

    with ThreadPoolExecutor(n_threads) as threads:
        won = list(threads.map(thread, range(n_threads)))
    for n in range(n_rounds):
        winners = [i for i in range(n_threads) if won[i][n]]
        assert len(winners) == 1
        assert storage.read_bytes(f"{root}/commits/{n}") == f"{winners[0]} won".encode()
    assert len(storage.list_files(f"{root}/own")) == n_threads * n_rounds


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_real_server_killed_twice_meanwhile_loses_nothing(
    tmp_path: Path,
    quick: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "BUDGET_S", 300.0)
    monkeypatch.setattr(patience, "STALL_S", 5.0)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with Rgw(tmp_path).running() as server, FaultyProxy(server.port, share=0.1).running() as proxy:
        for name, value in (server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}).items():
            monkeypatch.setenv(name, value)
        amazon.Store.clear_instance_cache()
        root = server.new_bucket()
        with ThreadPoolExecutor(1) as aside:
            working = aside.submit(work, root, n_threads=8, n_rounds=25)
            for _ in range(2):
                time.sleep(8)
                assert not working.done(), "killed too late"
                server.kill9()
                time.sleep(2)
                server.start_again()
            working.result()
        content = bytes(range(256)) * 4096 * 70
        proxy.next = [("POST", "", ""), ("POST", "reset", "lost")]
        storage.put(f"{root}/large", content)
        server.kill9()
        server.start_again()
        assert storage.read_bytes(f"{root}/large") == content
        assert storage.create(f"{root}/large", content) is False
        storage.delete(root + "/own")
        assert storage.list_files(root + "/own") == []
