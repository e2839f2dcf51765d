"""What is known of every file, kept between runs.

A catalog is a folder of Parquet files, its parts, each committed atomically. A row describes one version of
one file, so a run over a grown prefix processes only files without a row, and those whose storage failed the
last time (`again`).

Files are rows of tables (FILES), not objects: a million take some 150 MB.
"""

import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import storage
from vitascope.clips.table import Row
from vitascope.records import stable_id

PART_BYTES = 512 << 20
"""Most bytes of the files of a part of more than one file: some minutes of work, read whole to cut clips."""

FILE_BYTES = 8 << 20
"""Fixed cost of a file, in bytes: opening it, decoding at its ends, writing its row."""

LEAST_PARTS = 64
"""Fewest parts, unless there are fewer files: enough tasks for every core."""

FILES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # path relative to the input, '/'-separated
        pa.field("version", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("beside", pa.list_(pa.string())),  # URIs of its sidecars
    ]
)
"""Files to be processed."""


@dataclass(frozen=True)
class Item:
    """A row of FILES: a file to be processed."""

    uri: str
    name: str
    version: str
    size_bytes: int
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """The number of the part that holds the row of each file; below 0 if none does."""

    uris: list[str]
    number: np.ndarray

    def groups(self) -> Iterable[tuple[str, np.ndarray]]:
        """Each part in use, with the indices of its files."""
        order = np.argsort(self.number, kind="stable")
        bounds = np.flatnonzero(np.diff(self.number[order], prepend=-1))
        for rows in np.split(order, bounds)[1:]:
            yield self.uris[self.number[rows[0]]], rows


def items(part: pa.Table) -> list[Item]:
    """The rows of a part of FILES."""
    return [Item(**row | {"beside": tuple(row["beside"] or ())}) for row in part.to_pylist()]


def parts(files: pa.Table) -> list[pa.Table]:
    """The files in non-empty parts of about equal bytes, independent of their order."""
    ordered = files.sort_by("name")
    work = ordered["size_bytes"].to_numpy() + FILE_BYTES
    n_parts = max(-(-int(work.sum()) // PART_BYTES), min(len(work), LEAST_PARTS), 1)
    begins = np.cumsum(work) - work
    number = (begins + 0.5) // (work.sum() / n_parts)  # half a byte against rounding
    bounds = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), len(work)]
    return [ordered.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]


def part_uri(folder: str, part: pa.Table) -> str:
    """The URI of the part that describes these files."""
    keys = zip(part["name"].to_pylist(), part["version"].to_pylist(), strict=True)
    return storage.join(folder, f"part-{stable_id(*(word for key in keys for word in key))}.parquet")


def commit(folder: str, part: pa.Table, table: pa.Table) -> None:
    """Commits `table`: a row for each file of `part`, or for those processed so far.

    Repeating it is harmless.
    """
    storage.put_table(part_uri(folder, part), table)


def committed_rows(folder: str, part: pa.Table) -> dict[str, Row]:
    """The rows of the part about these files by name, except those to be processed again.

    When a node is lost, Ray re-runs the tasks whose results it held, including committed ones.
    """
    uri = part_uri(folder, part)
    rows = storage.rows(uri) if storage.exists(uri) else []
    return {row["name"]: row for row in rows if not row["again"]}


def known(folder: str, files: pa.Table) -> tuple[Places, np.ndarray]:
    """The parts that describe `files`, and whether each file (N,) has to be processed (again)."""
    uris = storage.list_files(folder)
    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(lambda uri: storage.read_table(uri, ["name", "version", "again"]), uris))
    if not tables:
        return Places([], np.full(len(files), -1)), np.ones(len(files), bool)
    number = pa.array(np.repeat(np.arange(len(uris)), [len(table) for table in tables]))
    rows = pa.concat_tables(tables).append_column("part", number).sort_by("again")  # settled rows first
    at = pc.index_in(_key(files), value_set=_key(rows))
    part, again = pc.fill_null(rows["part"].take(at), -1), pc.fill_null(rows["again"].take(at), True)
    return Places(uris, part.to_numpy().copy()), again.to_numpy()


def _key(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["name"], rows["version"], "\x1f")


def rows_about(places: Places, files: pa.Table, columns: list[str] | None = None) -> Iterable[pa.Table]:
    """The rows of each part that describe `files`."""
    for uri, rows in places.groups():
        table = storage.read_table(uri, columns)
        yield table.filter(pc.is_in(_key(table), value_set=_key(files.take(rows))))
