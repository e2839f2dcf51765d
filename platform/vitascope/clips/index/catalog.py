"""What is known of every file, kept between runs.

A catalog is a folder of Parquet files, its parts, each committed in one act. A row tells of one version of
one file, so a run over a grown prefix looks only at files that no row tells of, and at those that the store
kept back the last time (`again`).

Files are tables of FILES and not objects: of a million, these are some 150 MB.
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
"""Of files in a part, unless it is one file: some minutes of work, read at once to cut clips."""

FILE_BYTES = 8 << 20
"""What a file counts for besides its bytes: to be opened, decoded at its ends, written down."""

LEAST_PARTS = 64
"""Work is cut into fewer parts only if there are fewer files: tasks enough for every core."""

FILES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # path relative to the input, '/'-separated
        pa.field("version", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("beside", pa.list_(pa.string())),  # where its sidecars are
    ]
)
"""Files to be looked at."""


@dataclass(frozen=True)
class Item:
    """A row of FILES: a file to be looked at."""

    uri: str
    name: str
    version: str
    size_bytes: int
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Places:
    """The part that holds each file's row, by number; below 0 if no part does."""

    uris: list[str]
    number: np.ndarray

    def groups(self) -> Iterable[tuple[str, np.ndarray]]:
        """Each part that tells of files, with their indices."""
        order = np.argsort(self.number, kind="stable")
        bounds = np.flatnonzero(np.diff(self.number[order], prepend=-1))
        for rows in np.split(order, bounds)[1:]:
            yield self.uris[self.number[rows[0]]], rows


def items(part: pa.Table) -> list[Item]:
    """The rows of a part of FILES."""
    return [Item(**row | {"beside": tuple(row["beside"] or ())}) for row in part.to_pylist()]


def parts(files: pa.Table) -> list[pa.Table]:
    """The files in parts of about equal bytes, none empty; the same ones in any order give the same parts."""
    ordered = files.sort_by("name")
    work = ordered["size_bytes"].to_numpy() + FILE_BYTES
    n_parts = max(-(-int(work.sum()) // PART_BYTES), min(len(work), LEAST_PARTS), 1)
    begins = np.cumsum(work) - work
    number = (begins + 0.5) // (work.sum() / n_parts)  # half a byte: for rounding
    bounds = [*np.flatnonzero(np.diff(number, prepend=-1)).tolist(), len(work)]
    return [ordered.slice(begin, end - begin) for begin, end in itertools.pairwise(bounds)]


def part_uri(folder: str, part: pa.Table) -> str:
    """Where the part about these files is, or will be."""
    keys = zip(part["name"].to_pylist(), part["version"].to_pylist(), strict=True)
    return storage.join(folder, f"part-{stable_id(*(word for key in keys for word in key))}.parquet")


def commit(folder: str, part: pa.Table, table: pa.Table) -> None:
    """Makes what is known of `part` visible: in `table`, a row for each, or for those looked at so far.

    Once more is the same, or better.
    """
    storage.put_table(part_uri(folder, part), table)


def committed_rows(folder: str, part: pa.Table) -> dict[str, Row]:
    """The rows by name that the part about these files has, but for those to be looked at again.

    If a node is lost, Ray runs the tasks again whose results it held, also when they had committed.
    """
    uri = part_uri(folder, part)
    rows = storage.rows(uri) if storage.exists(uri) else []
    return {row["name"]: row for row in rows if not row["again"]}


def known(folder: str, files: pa.Table) -> tuple[Places, np.ndarray]:
    """The part that tells of each of `files`, and whether (N,) the file has to be looked at, known or not."""
    uris = storage.list_files(folder)
    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(lambda uri: storage.read_table(uri, ["name", "version", "again"]), uris))
    if not tables:
        return Places([], np.full(len(files), -1)), np.ones(len(files), bool)
    number = pa.array(np.repeat(np.arange(len(uris)), [len(table) for table in tables]))
    rows = pa.concat_tables(tables).append_column("part", number).sort_by("again")  # what is settled, first
    at = pc.index_in(_key(files), value_set=_key(rows))
    part, again = pc.fill_null(rows["part"].take(at), -1), pc.fill_null(rows["again"].take(at), True)
    return Places(uris, part.to_numpy().copy()), again.to_numpy()


def _key(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["name"], rows["version"], "\x1f")


def told(places: Places, files: pa.Table, columns: list[str] | None = None) -> Iterable[pa.Table]:
    """What parts tell of `files`: the rows that count of each part."""
    for uri, rows in places.groups():
        table = storage.read_table(uri, columns)
        yield table.filter(pc.is_in(_key(table), value_set=_key(files.take(rows))))
