"""What is known of every file, kept between runs.

A catalog is a folder of Parquet files, its parts, each committed in one act. A row tells of one version of
one file, so a run over a grown prefix looks only at files that no row tells of, and at those that the store
kept back the last time (`again`).
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from vitascope import storage
from vitascope.records import stable_id

PART_BYTES = 2 << 30
"""Of files in a part: what is done again when a node is lost, and read at once to cut clips."""

FILE_BYTES = 8 << 20
"""What a file counts for besides its bytes: to be opened, decoded at its ends, written down."""

LEAST_PARTS = 64
"""Work is cut into fewer parts only where there are fewer files: tasks enough for every core."""

Key = tuple[str, str]
"""Name and version of a file."""


@dataclass(frozen=True)
class Item:
    """A file to be looked at: where it is, what it is called, and which version of it."""

    uri: str
    name: str
    version: str
    size_bytes: int
    beside: tuple[str, ...] = ()  # its sidecars

    @property
    def key(self) -> Key:
        return self.name, self.version


def parts(todo: Iterable[Item]) -> list[list[Item]]:
    """The files in parts of about equal bytes, none empty; the same ones in any order give the same parts."""
    ordered = sorted(todo, key=lambda item: item.name)
    total = sum(item.size_bytes + FILE_BYTES for item in ordered)
    share = total / max(-(-total // PART_BYTES), min(len(ordered), LEAST_PARTS), 1)
    cut: list[list[Item]] = []
    filled = 0
    for item in ordered:
        if filled >= share * len(cut) - 0.5:
            cut.append([])
        cut[-1].append(item)
        filled += item.size_bytes + FILE_BYTES
    return cut


def part_uri(folder: str, items: Sequence[Item]) -> str:
    """Where the part about these files is, or will be."""
    return storage.join(folder, f"part-{stable_id(*(word for item in items for word in item.key))}.parquet")


def commit(folder: str, items: Sequence[Item], table: pa.Table) -> None:
    """Makes the part about `items` visible; `table` has a row for each. Once more is the same, or better."""
    storage.put_table(part_uri(folder, items), table)


def known(folder: str) -> tuple[dict[Key, str], set[Key]]:
    """The part that tells of each version of each file, and the files to be looked at again all the same."""
    uris = storage.list_files(folder)
    places: dict[Key, str] = {}
    doubtful: set[Key] = set()
    with ThreadPoolExecutor(16) as pool:
        tables = pool.map(lambda uri: storage.read_table(uri, ["name", "version", "again"]), uris)
        for uri, table in zip(uris, tables, strict=True):
            for name, version, again in zip(*(column.to_pylist() for column in table.columns), strict=True):
                key = (name, version)
                if key not in places or key in doubtful:
                    places[key] = uri
                    (doubtful.add if again else doubtful.discard)(key)
    return places, doubtful
