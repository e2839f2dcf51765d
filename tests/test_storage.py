"""Files behave the same on a local disk, on S3 and on Google Cloud Storage."""

import errno
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.errors import Mistake


@pytest.fixture(params=["local", "s3", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue(request.param)


FULL = """
import os, resource, signal, sys
from vitascope import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (storage.put, storage.create):
    try:
        write(sys.argv[1], bytes(5000))
    except OSError as error:
        print(error.errno, error.filename)
"""


def test_a_file_that_the_disk_does_not_take_leaves_nothing_behind(tmp_path: Path) -> None:
    target = str(tmp_path / "a" / "b.bin")
    storage.put(target, b"before")
    command = [sys.executable, "-c", FULL, target]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{errno.EFBIG} {target}"] * 2
    assert os.listdir(tmp_path / "a") == ["b.bin"]
    assert storage.read_bytes(target) == b"before"


def test_a_folder_is_not_replaced_by_a_file_and_nothing_hidden_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        storage.put(str(tmp_path / "taken"), b"x")
    assert refused.value.filename == str(tmp_path / "taken")
    assert os.listdir(tmp_path) == ["taken"]


def test_put_replaces_and_reads_back(root: str) -> None:
    location = storage.join(root, "a", "b.txt")
    storage.put(location, b"one")
    storage.put(location, b"two!")
    assert storage.read_bytes(location) == b"two!"
    assert storage.size_bytes(location) == 4
    with storage.open_file(location) as file:
        assert file.read() == b"two!"


def test_the_content_of_a_local_file_is_put(root: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    location, file = storage.join(root, "a", "b.mp4"), tmp_path_factory.mktemp("local") / "file"
    storage.put(location, b"before")
    for content in (b"", b"some", bytes(range(256)) * 4096 * 70):  # s3fs sends more than 64 MiB in parts
        file.write_bytes(content)
        storage.put(location, file)
        assert storage.read_bytes(location) == content
    assert storage.list_files(root) == [location]
    assert file.exists()
    with pytest.raises(FileNotFoundError):
        storage.put(location, file.with_name("missing"))
    assert storage.size_bytes(location) == len(content)


def test_put_leaves_nothing_else_behind(root: str) -> None:
    storage.put(storage.join(root, "x"), b"1")
    storage.create(storage.join(root, "y"), b"2")
    storage.create(storage.join(root, "y"), b"3")
    fs, path = storage.filesystem(root)
    assert len(fs.find(path)) == 2


def test_of_racing_writers_exactly_one_creates(root: str) -> None:
    with ThreadPoolExecutor(16) as threads:
        for round_ in range(5):
            location = storage.join(root, f"commit-{round_}")
            contents = [str(i).encode() for i in range(16)]
            won = list(threads.map(lambda c, to=location: storage.create(to, c), contents))
            assert won.count(True) == 1
            assert storage.read_bytes(location) == contents[won.index(True)]


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """As exFAT and some network drives are; here the call that makes them is refused instead."""

    def refuse(*_: str) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        Mistake, match=r"commit.*no hard links, which commit files; choose a folder on another"
    ):
        storage.create(str(tmp_path / "commit"), b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_a_file(root: str) -> None:
    location = storage.join(root, "file")
    contents = {bytes([i]) * 200_000 for i in range(4)}
    storage.put(location, next(iter(contents)))
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(lambda: [storage.put(location, c) for c in contents for _ in range(5)])
        seen = {storage.read_bytes(location)}
        while not writing.done():
            seen.add(storage.read_bytes(location))
        writing.result()
    assert seen <= contents


def test_list_is_sorted_full_locations_without_hidden_files(root: str) -> None:
    for name in ("b.mp4", "a/c.mp4", ".tmp/x", "a/.part", "d.txt"):
        storage.put(storage.join(root, name), b"-")
    assert storage.list_files(root) == [storage.join(root, n) for n in ("a/c.mp4", "b.mp4", "d.txt")]
    assert storage.list_files(storage.join(root, "b.mp4")) == [storage.join(root, "b.mp4")]


def test_list_leaves_out_what_marks_a_folder_on_s3(s3: str) -> None:
    fs, bucket = storage.filesystem(s3)
    for marker in ("in/", "in/deep/", "in/deep/empty/"):  # as the AWS console makes them
        fs.call_s3("put_object", Bucket=bucket, Key=marker, Body=b"")
    storage.put(f"{s3}/in/deep/a.mp4", b"-")
    for location in (s3, f"{s3}/in", f"{s3}/in/"):
        assert storage.list_files(location) == [f"{s3}/in/deep/a.mp4"]
    assert storage.list_files(f"{s3}/in/deep/empty/") == []


@pytest.mark.parametrize("name", ["a::b.mp4", "s3::c.mp4", "100% [a] #1?.mp4"])
def test_odd_names_are_names(root: str, name: str) -> None:
    location = storage.join(root, "in", name)
    storage.put(location, name.encode())
    assert storage.list_files(storage.join(root, "in")) == [location]
    assert storage.exists(location)
    assert storage.size_bytes(location) == len(name)
    assert storage.read_bytes(location) == name.encode()
    with storage.open_file(location) as file:
        assert file.read() == name.encode()


def test_list_sees_what_was_written_a_moment_ago(root: str) -> None:
    storage.put(storage.join(root, "one"), b"-")
    assert len(storage.list_files(root)) == 1
    storage.put(storage.join(root, "two"), b"-")
    assert len(storage.list_files(root)) == 2


def test_delete_removes_files_and_folders_and_forgives_absence(root: str) -> None:
    storage.put(storage.join(root, "folder", "file"), b"-")
    storage.delete(storage.join(root, "folder"))
    storage.delete(storage.join(root, "folder"))
    assert not storage.exists(storage.join(root, "folder", "file"))


def test_delete_takes_names_as_they_are(root: str) -> None:
    for name in ("run[1]", "run1", "run*", "runs"):
        storage.put(storage.join(root, name, "mark"), b"-")
    for name in ("run[1]", "run*"):
        storage.delete(storage.join(root, name))
    assert storage.list_files(root) == [storage.join(root, n, "mark") for n in ("run1", "runs")]


def test_what_is_missing_raises_file_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "none"))
    with pytest.raises(FileNotFoundError, match="has the stage"):
        storage.read_table(storage.join(root, "none"))


def test_columns_come_as_asked_and_one_that_lacks_is_named(root: str) -> None:
    location = storage.join(root, "day=3", "a.parquet")
    storage.put_table(location, pa.table({"a": [1], "b": [2], "c": [3]}))
    assert storage.read_table(location, ["c", "a"]).to_pylist() == [{"c": 3, "a": 1}]
    assert storage.read_table(storage.join(root, "day=3")).column_names == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"has no column 'version'; if an .* It has a, b, c"):
        storage.read_table(location, ["a", "version"])


def test_a_damaged_table_is_named(root: str) -> None:
    location = storage.join(root, "a.parquet")
    storage.put_table(location, pa.table({"a": list(range(1000))}))
    content = storage.read_bytes(location)
    for damaged in (b"", content[:-9], b"PAR1" + bytes(100) + content[-8:]):
        storage.put(location, damaged)
        with pytest.raises(ValueError, match=r"a\.parquet is no whole Parquet file"):
            storage.read_table(location)


def test_tables_of_a_folder_are_read_in_the_order_of_their_names(root: str) -> None:
    for name, value in (("2.parquet", 2), ("1.parquet", 1)):
        storage.put_table(storage.join(root, "t", name), pa.table({"x": [value]}))
    assert storage.rows(storage.join(root, "t")) == [{"x": 1}, {"x": 2}]
    assert storage.rows(storage.join(root, "t", "2.parquet"), columns=["x"]) == [{"x": 2}]


def test_json_lines_round_trip(root: str) -> None:
    location = storage.join(root, "rows.jsonl")
    documents = [{"prompt": "späte Wellen"}, {"n": 1}]
    storage.put(location, storage.json_lines(documents))
    assert list(storage.read_json_lines(location)) == documents


def test_content_larger_than_one_request_is_committed_whole(root: str) -> None:
    content = bytes(range(256)) * 4096 * 101  # gcsfs sends more than 50 MiB in parts, s3fs more than 100
    location = storage.join(root, "large")
    storage.put(location, content)
    assert storage.read_bytes(location) == content
    assert not storage.create(location, content[::-1])
    assert storage.read_bytes(location) == content


@pytest.mark.parametrize("location", ["az://box/x", "hf://datasets/x", "https://example.com/x", "s3a://b/x"])
def test_a_store_of_unknown_promises_is_refused(location: str) -> None:
    with pytest.raises(ValueError, match="does not know; use a local path, s3:// or gs://"):
        storage.put(location, b"-")


def test_open_file_refuses_to_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"storage\.put"):
        storage.open_file(str(tmp_path / "x"), "wb")


def test_the_version_is_that_of_listings_and_changes_with_the_content(root: str) -> None:
    location = storage.join(root, "in", "a.mp4")
    versions = []
    for content in (b"one", b"two"):
        storage.put(location, content)
        (listed,) = storage.listing(storage.join(root, "in"))
        versions.append(storage.version(location))
        assert listed.version == versions[-1]
    assert versions[0] != versions[1]
    with pytest.raises(FileNotFoundError):
        storage.version(storage.join(root, "in", "b.mp4"))


def test_a_link_changes_with_what_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "in" / "link"
    target.write_bytes(b"one")
    link.parent.mkdir()
    link.symlink_to(target)
    versions = {storage.version(str(link))}
    os.utime(target, (1, 1))
    versions.add(storage.version(str(link)))
    (listed,) = storage.listing(str(link.parent))
    assert len(versions) == 2
    assert listed.version in versions
    target.unlink()  # it leads nowhere
    (listed,) = storage.listing(str(link.parent))
    assert listed.version not in versions


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_null(value: float) -> None:
    document = {"loss": value, "by_size": [{"loss": (1.5, value)}], "n": 3, "name": "NaN", "ok": True}
    expected = {"loss": None, "by_size": [{"loss": [1.5, None]}], "n": 3, "name": "NaN", "ok": True}
    for content in (storage.json_bytes(document), storage.json_lines([document])):
        assert json.loads(content, parse_constant=pytest.fail) == expected
