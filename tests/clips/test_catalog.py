"""Which files are looked at, and which are known."""

import random

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.clips import catalog
from vitascope.clips.catalog import Item


def item(number: int, size_bytes: int = 100, version: str = "1") -> Item:
    return Item(f"s3://b/{number:06d}.mp4", f"{number:06d}.mp4", version, size_bytes)


def table(items: list[Item], again: bool = False) -> pa.Table:
    columns = {"name": [i.name for i in items], "version": [i.version for i in items]}
    return pa.table(columns | {"again": [again] * len(items)})


@pytest.mark.parametrize(
    ("n_files", "size_bytes", "least", "most"),
    [
        (0, 0, 0, 0),
        (1, 5, 1, 1),
        (40, 100, 40, 40),
        (500, 0, 64, 64),
        (100_000, 100, 390, 392),
        (100, 2**30, 51, 64),
    ],
)
def test_parts_hold_each_file_once_and_are_many_enough(
    n_files: int, size_bytes: int, least: int, most: int
) -> None:
    items = [item(i, size_bytes) for i in range(n_files)]
    cut = catalog.parts(items)
    assert [i for part in cut for i in part] == items
    assert least <= len(cut) <= most
    assert all(len(part) for part in cut)
    random.Random(0).shuffle(items)
    assert catalog.parts(items) == cut


def test_large_files_do_not_share_a_part() -> None:
    sizes = [3 << 30, *[1000] * 300, 4 << 30, 5 << 30]
    cut = catalog.parts(item(i, size) for i, size in enumerate(sizes))
    large = [sum(i.size_bytes > 2**30 for i in part) for part in cut]
    assert max(large) == 1


def test_what_a_part_tells_of_is_known_in_that_version(tmp_path) -> None:
    folder, items = str(tmp_path / "catalog"), [item(i) for i in range(5)]
    assert catalog.known(folder) == ({}, set())
    catalog.commit(folder, items[:3], table(items[:3]))
    catalog.commit(folder, items[3:], table(items[3:], again=True))
    places, doubtful = catalog.known(folder)
    assert set(places) == {i.key for i in items}
    assert doubtful == {i.key for i in items[3:]}
    assert item(0, version="2").key not in places
    catalog.commit(folder, items[2:], table(items[2:]))
    places, doubtful = catalog.known(folder)
    assert doubtful == set()
    assert places[items[4].key] == catalog.part_uri(folder, items[2:])


def test_a_part_committed_again_replaces_itself(tmp_path) -> None:
    folder, items = str(tmp_path / "catalog"), [item(0)]
    catalog.commit(folder, items, table(items, again=True))
    catalog.commit(folder, items, table(items))
    assert catalog.known(folder) == ({items[0].key: catalog.part_uri(folder, items)}, set())
    assert len(storage.list_files(folder)) == 1
