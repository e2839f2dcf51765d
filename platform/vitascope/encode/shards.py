"""Latent shards: samples to bytes and back."""

import functools
import hashlib
import io
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from vitascope import storage
from vitascope.encode.plan import EncodeTask
from vitascope.errors import Missing, Mistake
from vitascope.records import LATENTS, SAMPLES

GROUP_ROWS = 32
GROUP_BYTES = 1 << 20
"""A row group ends at either: what is read at once to get at one sample."""

CACHE_BYTES = 256 << 20
"""Row groups that each process keeps, the least recently used going first."""

INDEX = "index.parquet"
"""The file that makes the shards beside it visible: records.SAMPLES."""

_NOTE = b"vitascope"
_NOTE_HASH = b"vitascope.blake2b"
_TAIL_BYTES = 1 << 18
"""Read first of a shard: more than the footer of most."""


class DamagedShard(Mistake):
    """What lies where a shard should be is not what was written; the finding is the error's cause."""


@dataclass(frozen=True)
class LatentSample:
    """A sample as the feed takes it from a shard."""

    sample_id: int
    latent: torch.Tensor  # bf16 (T, h, w, C)
    text: torch.Tensor  # bf16 (n_text, dim)
    caption: str

    def __repr__(self) -> str:
        shapes = f"latent {tuple(self.latent.shape)}, text {tuple(self.text.shape)}"
        return f"LatentSample({self.sample_id}, {shapes})"


@dataclass(frozen=True)
class Moments:
    """Sums over latent pixels, per channel (C,), by which mean and deviation of many shards are known."""

    n: int
    total: list[float]
    squares: list[float]

    @classmethod
    def none(cls, channels: int) -> "Moments":
        """Of no pixel."""
        return cls(0, [0.0] * channels, [0.0] * channels)

    @classmethod
    def of(cls, latent: torch.Tensor) -> "Moments":
        """Of a latent (T, h, w, C)."""
        pixels = latent.flatten(0, -2).double()
        return cls(len(pixels), pixels.sum(0).tolist(), pixels.square().sum(0).tolist())

    def __add__(self, other: "Moments") -> "Moments":
        total, squares = (
            (np.array(ours) + theirs).tolist()
            for ours, theirs in ((self.total, other.total), (self.squares, other.squares))
        )
        return Moments(self.n + other.n, total, squares)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Per channel; zeros of no pixel."""
        mean = np.array(self.total) / max(self.n, 1)
        variance = np.array(self.squares) / max(self.n, 1) - mean**2
        return mean.tolist(), np.sqrt(variance.clip(min=0)).tolist()


@dataclass(frozen=True)
class ShardNote:
    """What a shard says of itself in its footer, so that a shard written is a shard accounted for."""

    key: str  # derived from the tasks that were planned into it
    text_dim: int
    samples: pa.Table  # records.SAMPLES
    drops: list[dict[str, Any]]  # rows of records.DROPS: what was planned into it and failed
    moments: Moments

    def to_json(self) -> bytes:
        """The note as `from_json` reads it."""
        return json.dumps(
            vars(self) | {"samples": self.samples.to_pylist(), "moments": asdict(self.moments)}
        ).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "ShardNote":
        """The inverse of `to_json`."""
        fields = json.loads(content)
        samples = pa.Table.from_pylist(fields["samples"], schema=SAMPLES)
        return cls(**fields | {"samples": samples, "moments": Moments(**fields["moments"])})


def shard_uri(latents: str, shard: int) -> str:
    """The location of a shard in the folder `latents`."""
    return storage.join(latents, f"shard-{shard:06d}.parquet")


def shard_numbers(latents: str) -> list[int]:
    """The numbers of all shards in the folder `latents`, also of those that no index names."""
    found = (re.search(r"/shard-(\d+)\.parquet$", uri) for uri in storage.list_files(latents))
    return sorted(int(match[1]) for match in found if match)


def latent_row(task: EncodeTask, latent: torch.Tensor, text: torch.Tensor) -> dict[str, Any]:
    """A row of records.LATENTS from a latent (T, h, w, C) and text states (n, dim), both stored as bf16."""
    return {
        "sample_id": task.sample_id,
        "clip_id": task.clip_id,
        "latent": to_bytes(latent),
        "latent_shape": list(latent.shape),
        "text": to_bytes(text),
        "n_text": len(text),
        "caption": task.caption,
    }


def read_sample(row: dict[str, Any], text_dim: int) -> LatentSample:
    """The inverse of `latent_row`."""
    return LatentSample(
        sample_id=row["sample_id"],
        latent=from_bytes(row["latent"], row["latent_shape"]),
        text=from_bytes(row["text"], (row["n_text"], text_dim)),
        caption=row["caption"],
    )


def digest(row: dict[str, Any]) -> int:
    """63 bits that change with anything that training takes from a row of records.LATENTS."""
    content = hashlib.blake2b(digest_size=8)
    for part in (row["latent"], row["text"], row["caption"].encode()):
        content.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(content.digest(), "big") >> 1


def to_bytes(values: torch.Tensor) -> bytes:
    """The values as bf16, little-endian, in C order."""
    return values.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()


def from_bytes(content: bytes, shape: Sequence[int]) -> torch.Tensor:
    """bf16 of `shape` from the bytes of `to_bytes`."""
    words = np.frombuffer(content, dtype="<i2").copy()
    return torch.from_numpy(words).view(torch.bfloat16).reshape(tuple(shape))


def write_shard(uri: str, rows: list[dict[str, Any]], note: ShardNote) -> bool:
    """Commits rows of records.LATENTS and the note about them as one file, in one atomic act.

    Whether this call did it: what is there already is never replaced.
    """
    said = note.to_json()
    schema = LATENTS.with_metadata({_NOTE: said, _NOTE_HASH: _hash(said)})
    sizes = sum(len(row["latent"]) + len(row["text"]) for row in rows)
    per_group = max(1, min(GROUP_ROWS, GROUP_BYTES * len(rows) // max(1, sizes)))
    content = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=schema)
    how = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, content, row_group_size=per_group, **how)
    return storage.create(uri, content.getvalue())


def write_index(latents: str, samples: pa.Table) -> None:
    """Makes records.SAMPLES, by shard and row, visible."""
    places = samples["shard"].to_numpy().astype(np.int64) << 32 | samples["row"].to_numpy()
    assert (np.diff(places) > 0).all(), "the samples are not in order"
    storage.put_table(storage.join(latents, INDEX), samples)


def read_index(latents: str, columns: list[str] | None = None) -> pa.Table:
    """The committed index of a folder of latents, records.SAMPLES, by shard and row.

    Raises:
        Missing: nothing is committed there.
    """
    with _absence_told(latents):
        return storage.read_table(storage.join(latents, INDEX), columns)


def index_rows(latents: str) -> int:
    """How many samples the index names; raises as `read_index` does."""
    with _absence_told(latents), storage.open_parquet(storage.join(latents, INDEX), None) as file:
        return int(file.metadata.num_rows)


def index_parts(latents: str, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """The samples of a split as `read_index` has them, part by part; raises as it does."""
    columns = [*columns, "split"]
    with _absence_told(latents), storage.open_parquet(storage.join(latents, INDEX), columns) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns).filter(pc.field("split") == split)


@contextmanager
def _absence_told(latents: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"no latents at {latents}; run `vitascope encode` with these settings first") from None


def read_note(uri: str, *, damaged_is_absent: bool = False) -> ShardNote | None:
    """The note in a shard's footer, or None if no shard is there, or a damaged one that counts as absent.

    Raises:
        DamagedShard: what is there is damaged, and `damaged_is_absent` is False.
    """
    try:
        tail = _tail(uri)
    except FileNotFoundError:
        return None
    try:
        return _note_in(tail)
    except Exception as error:  # no file is read here, so that whatever is raised is about the content
        if damaged_is_absent:
            return None
        raise DamagedShard(
            f"{uri} is damaged ({error}); encode again, and where the index names it, run vitascope shards "
            "verify --forget before"
        ) from error


def read_notes(
    latents: str, shards: Sequence[int], *, damaged_is_absent: bool = False
) -> list[ShardNote | None]:
    """`read_note` of several shards, in order."""
    uris = [shard_uri(latents, shard) for shard in shards]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda uri: read_note(uri, damaged_is_absent=damaged_is_absent), uris))


def _tail(uri: str) -> bytes:
    """The end of a file, which has the whole footer if it is a Parquet file."""
    with storage.open_file(uri) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TAIL_BYTES, 0))
        tail: bytes = file.read()
        footer = int.from_bytes(tail[-8:-4], "little") + 8  # it ends with its own length and "PAR1"
        if len(tail) < footer <= size:
            file.seek(size - footer)
            tail = file.read()
    return tail


def _note_in(tail: bytes) -> ShardNote:
    metadata = pq.read_schema(pa.BufferReader(tail)).metadata or {}
    said = metadata.get(_NOTE)
    if said is None:
        raise ValueError("its footer has no note, which every latent shard has")
    if metadata.get(_NOTE_HASH) != _hash(said):
        raise ValueError("its note is not the one that was written")
    return ShardNote.from_json(said)


def _hash(said: bytes) -> bytes:
    return hashlib.blake2b(said, digest_size=16).hexdigest().encode()


class ShardFile:
    """The open file of a shard: its pages are checked as they are read, a row group comes in one request."""

    def __init__(self, uri: str) -> None:
        fs, path = storage.arrow_filesystem(uri)
        self._source = fs.open_input_file(path)
        parquet = pq.ParquetFile(self._source)
        self._metadata = parquet.metadata
        self.schema: pa.Schema = parquet.schema_arrow
        counts = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        """(groups + 1,): the first row of each row group, and the number of rows."""

    def read(self, group: int) -> pa.Table:
        """A row group. Not for several threads at once."""
        # A reader that fetches in one request keeps what it fetched; so each group has its own.
        how = {"metadata": self._metadata, "pre_buffer": True, "page_checksum_verification": True}
        return pq.ParquetFile(self._source, **how).read_row_group(group)


def read_samples(latents: str, places: Sequence[tuple[int, int]]) -> list[LatentSample]:
    """The samples at `places`, (shard, row) pairs, in that order.

    Only the row groups they lie in are read; a process keeps the last ones it read. Safe in many threads.
    """
    return [_open_shard(shard_uri(latents, int(shard))).sample(int(row)) for shard, row in places]


class _Shard:
    """An open shard; reads go through the process's cache of row groups."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = ShardFile(uri)
        self._lock = threading.Lock()
        self._text_dim = json.loads(self._file.schema.metadata[_NOTE])["text_dim"]

    def sample(self, row: int) -> LatentSample:
        if not 0 <= row < self._file.starts[-1]:
            raise ValueError(f"{self._uri} has {self._file.starts[-1]} rows, asked for row {row}")
        group = int(np.searchsorted(self._file.starts, row, side="right")) - 1
        table = _groups.get((self._uri, group), lambda: self._read(group))
        return read_sample(table.slice(row - int(self._file.starts[group]), 1).to_pylist()[0], self._text_dim)

    def _read(self, group: int) -> pa.Table:
        try:
            with self._lock:
                return self._file.read(group)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise OSError(f"{self._uri} is damaged ({error}); run vitascope shards verify") from error


class _GroupCache:
    """The row groups read last, up to a total size."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tables: OrderedDict[tuple[str, int], pa.Table] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int], read: Any) -> pa.Table:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        table = read()
        with self._lock:
            if key not in self._tables:
                self._tables[key] = table
                self._bytes += table.nbytes
            while self._bytes > self._max_bytes and len(self._tables) > 1:
                self._bytes -= self._tables.popitem(last=False)[1].nbytes
        return table


_groups = _GroupCache(CACHE_BYTES)
_open_shard = functools.lru_cache(maxsize=256)(_Shard)
