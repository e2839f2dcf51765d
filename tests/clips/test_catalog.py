"""Which files are looked at, and which are known."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.clips.index import catalog
from vitascope.clips.index.catalog import FILES, Places


def files(numbers: Iterable[int], size_bytes: int = 100, version: str = "1") -> pa.Table:
    names = [f"{i:06d}.mp4" for i in numbers]
    columns = {"name": names, "version": [version] * len(names), "size_bytes": [size_bytes] * len(names)}
    columns |= {"uri": [f"s3://b/{name}" for name in names], "beside": [None] * len(names)}
    return pa.table(columns, schema=FILES)


def table(part: pa.Table, again: bool = False) -> pa.Table:
    return part.select(["name", "version"]).append_column("again", pa.array([again] * len(part)))


def of(places: Places) -> list[str | None]:
    """The part of every file."""
    return [places.uris[n] if n >= 0 else None for n in places.number.tolist()]


@pytest.mark.parametrize(
    ("n_files", "size_bytes", "least", "most"),
    [
        (0, 0, 0, 0),
        (1, 5, 1, 1),
        (40, 100, 40, 40),
        (500, 0, 64, 64),
        (100_000, 100, 1560, 1565),
        (100, 2**30, 100, 100),
    ],
)
def test_parts_hold_each_file_once_and_are_many_enough(
    n_files: int, size_bytes: int, least: int, most: int
) -> None:
    whole = files(range(n_files), size_bytes)
    cut = catalog.parts(whole)
    assert pa.concat_tables([FILES.empty_table(), *cut]).equals(whole)
    assert least <= len(cut) <= most
    assert all(len(part) for part in cut)
    mixed = whole.take(np.random.default_rng(0).permutation(n_files))
    assert all(a.equals(b) for a, b in zip(catalog.parts(mixed), cut, strict=True))


def test_large_files_do_not_share_a_part() -> None:
    sizes = [3 << 30, *[1000] * 300, 4 << 30, 5 << 30]
    whole = files(range(len(sizes))).set_column(2, FILES.field("size_bytes"), pa.array(sizes))
    assert (
        max(sum(size > 2**30 for size in part["size_bytes"].to_pylist()) for part in catalog.parts(whole))
        == 1
    )


def test_what_a_part_tells_of_is_known_in_that_version(tmp_path: Path) -> None:
    folder, whole = str(tmp_path / "catalog"), files(range(5))
    places, unsettled = catalog.known(folder, whole)
    assert (of(places), unsettled.tolist()) == ([None] * 5, [True] * 5)
    first, second = whole.slice(0, 3), whole.slice(3)
    catalog.commit(folder, first, table(first))
    catalog.commit(folder, second, table(second, again=True))
    places, unsettled = catalog.known(folder, whole)
    uris = [catalog.part_uri(folder, first)] * 3 + [catalog.part_uri(folder, second)] * 2
    assert (of(places), unsettled.tolist()) == (uris, [False] * 3 + [True] * 2)
    assert of(catalog.known(folder, files([0], version="2"))[0]) == [None]
    last = whole.slice(2)
    catalog.commit(folder, last, table(last))
    places, unsettled = catalog.known(folder, whole.take([4, 0]))
    assert not unsettled.any()
    assert of(places) == [catalog.part_uri(folder, last), uris[0]]


def test_what_is_told_of_files_is_of_their_version(tmp_path: Path) -> None:
    folder, old, new = str(tmp_path / "catalog"), files(range(4)), files([1, 9], version="2")
    for part in (old, new):
        catalog.commit(folder, part, table(part))
    wanted = pa.concat_tables([old.take([0, 2, 3]), new.take([0])])
    places, _ = catalog.known(folder, wanted)
    told = pa.concat_tables(catalog.rows_about(places, wanted)).sort_by("name")
    expected = [("000000.mp4", "1"), ("000001.mp4", "2"), ("000002.mp4", "1"), ("000003.mp4", "1")]
    assert [(row["name"], row["version"]) for row in told.to_pylist()] == expected


def test_a_part_committed_again_replaces_itself(tmp_path: Path) -> None:
    folder, one = str(tmp_path / "catalog"), files([0])
    catalog.commit(folder, one, table(one, again=True))
    catalog.commit(folder, one, table(one))
    places, unsettled = catalog.known(folder, one)
    assert (of(places), unsettled.tolist()) == ([catalog.part_uri(folder, one)], [False])
    assert len(storage.list_files(folder)) == 1


def test_names_and_versions_are_read_without_the_rest(s3: str, fetched: list[int]) -> None:
    part = files(range(50))
    chance = np.random.default_rng(0)
    heavy = table(part).append_column("series", pa.array([chance.bytes(40_000) for _ in range(50)]))
    catalog.commit(f"{s3}/catalog", part, heavy)
    catalog.known(f"{s3}/catalog", part)
    assert 0 < sum(fetched) < 100_000  # of 2 MB


def test_rows_to_be_looked_at_again_are_not_taken_as_they_are(tmp_path: Path) -> None:
    folder, part = str(tmp_path / "catalog"), files(range(3))
    assert catalog.committed_rows(folder, part) == {}
    again = table(part).set_column(2, "again", pa.array([False, True, False]))
    catalog.commit(folder, part, again)
    assert list(catalog.committed_rows(folder, part)) == ["000000.mp4", "000002.mp4"]
    assert catalog.committed_rows(folder, files(range(3), version="2")) == {}
