"""Latent shards and their index, as files."""

import functools
import hashlib
import io
import json
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeVar

import cachetools
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.torch
import torch

from vitascope import storage
from vitascope.encode.plan import Drop
from vitascope.encode.samples import Moments, Sample, StoredSample
from vitascope.errors import Missing, Mistake
from vitascope.records import SAMPLES

GROUP_ROWS = 32
GROUP_BYTES = 1 << 20
"""A row group ends at either: it is what one read fetches to get at one sample."""

CACHE_BYTES = 256 << 20
"""Row groups that each process keeps, those used last."""

INDEX = "index.parquet"
"""The file that makes the shards next to it visible: records.SAMPLES."""

NO_CAPTION = "no_caption.safetensors"
_STATES = "states"
_NOTE = b"vitascope"
_NOTE_HASH = b"vitascope.blake2b"
_TAIL_BYTES = 1 << 18
"""Read first of a shard: more than the footer of most."""

_T = TypeVar("_T")


class DamagedShard(Mistake):
    """A shard's file is not what was written; the error's cause says what is wrong."""


@dataclass(frozen=True)
class ShardNote:
    """A shard's account of itself in its footer: a written shard has accounted for all its tasks.

    key: derived from the tasks that were planned into it. facts_hash: of its records.SAMPLES. drops: what was
    planned into it and failed.
    """

    key: str
    text_dim: int
    n_samples: int
    facts_hash: str
    drops: list[Drop]
    moments: Moments

    def to_json(self) -> bytes:
        """The note as `from_json` reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, content: bytes) -> "ShardNote":
        """The inverse of `to_json`; an old shard's note holds its records.SAMPLES as JSON."""
        fields = json.loads(content)
        if "samples" in fields:
            facts = pa.Table.from_pylist(fields.pop("samples"), schema=SAMPLES)
            fields |= {"n_samples": len(facts), "facts_hash": facts_hash(facts)}
        drops = [Drop(**drop) for drop in fields.pop("drops")]
        return cls(**fields | {"drops": drops, "moments": Moments(**fields["moments"])})


def facts_hash(samples: pa.Table) -> str:
    """Changes with any value of records.SAMPLES."""
    return hashlib.blake2b(json.dumps(samples.to_pylist()).encode(), digest_size=16).hexdigest()


def shard_uri(latents: str, shard: int) -> str:
    """The location of a shard in the folder `latents`."""
    return storage.join(latents, f"shard-{shard:06d}.parquet")


def shard_numbers(latents: str) -> list[int]:
    """The numbers of all shards in the folder `latents`, also of those that no index names."""
    matches = (re.search(r"/shard-(\d+)\.parquet$", uri) for uri in storage.list_files(latents))
    return sorted(int(match[1]) for match in matches if match)


def write_shard(uri: str, rows: pa.Table, note: ShardNote) -> bool:
    """Commits records.LATENTS and their note as one file, in one atomic act.

    Returns whether this call did it: an existing file is never replaced.
    """
    text = note.to_json()
    sizes = sum(pc.sum(pc.binary_length(rows[name])).as_py() or 0 for name in ("latent", "text"))
    per_group = max(1, min(GROUP_ROWS, GROUP_BYTES * len(rows) // max(1, sizes)))
    content = io.BytesIO()
    pq.write_table(
        rows.replace_schema_metadata({_NOTE: text, _NOTE_HASH: _hash(text)}),
        content,
        row_group_size=per_group,
        compression="zstd",
        use_dictionary=False,
        write_page_checksum=True,
        write_statistics=False,  # nothing reads them, and they would double the footer
    )
    return storage.create(uri, content.getvalue())


def write_index(latents: str, samples: pa.Table) -> None:
    """Makes records.SAMPLES, by shard and row, visible."""
    places = samples["shard"].to_numpy().astype(np.int64) << 32 | samples["row"].to_numpy()
    assert (np.diff(places) > 0).all(), "the samples are not in order"
    storage.put_table(storage.join(latents, INDEX), samples)


def read_index(latents: str, columns: list[str] | None = None) -> pa.Table:
    """The committed index of a folder of latents, records.SAMPLES, by shard and row.

    Raises:
        Missing: nothing is committed in the folder.
    """
    with _missing_latents(latents):
        return storage.read_table(storage.join(latents, INDEX), columns)


def index_parts(latents: str, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """The samples of a split, as in `read_index`, part by part; raises as it does."""
    columns = [*columns, "split"]
    with _missing_latents(latents), storage.open_parquet(storage.join(latents, INDEX), columns) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns).filter(pc.field("split") == split)


@contextmanager
def _missing_latents(latents: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"no latents at {latents}; run `vitascope encode` with these settings first") from None


def read_note(uri: str, *, damaged_is_absent: bool = False) -> ShardNote | None:
    """The note in a shard's footer, or None if no shard exists, or a damaged one that counts as absent.

    Raises:
        DamagedShard: the file is damaged, and `damaged_is_absent` is False.
    """
    return _read(uri, lambda: _note_in(pq.read_schema(pa.BufferReader(_tail(uri)))), damaged_is_absent)


def read_notes(
    latents: str, shards: Sequence[int], *, damaged_is_absent: bool = False
) -> list[ShardNote | None]:
    """`read_note` of several shards, in order."""
    return of_each(latents, shards, lambda uri: read_note(uri, damaged_is_absent=damaged_is_absent))


def of_each(latents: str, shards: Iterable[int], do: Callable[[str], _T]) -> list[_T]:
    """What `do` gives for the URI of each shard, in order, many at once."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(do, (shard_uri(latents, shard) for shard in shards)))


def read_shard(uri: str, *, damaged_is_absent: bool = False) -> tuple[ShardNote, pa.Table] | None:
    """A shard's note and its records.SAMPLES, without its latents; None and errors as of `read_note`."""
    return _read(uri, lambda: ShardFile(uri).facts(), damaged_is_absent)


def _read(uri: str, read: Callable[[], _T], damaged_is_absent: bool) -> _T | None:
    try:
        return read()
    except FileNotFoundError:
        return None
    except (PermissionError, storage.Unavailable):
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, struct.error) as error:
        if getattr(error, "errno", None):  # the system's, and not about the content
            raise
        if damaged_is_absent:
            return None
        raise DamagedShard(
            f"{uri} is damaged ({error}); if the index lists it, run vitascope shards verify --forget first; "
            "then encode again"
        ) from error


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


def _note_in(schema: pa.Schema) -> ShardNote:
    metadata = schema.metadata or {}
    text = metadata.get(_NOTE)
    if text is None:
        raise ValueError("its footer has no note, which every latent shard has")
    if metadata.get(_NOTE_HASH) != _hash(text):
        raise ValueError("its note is not the one that was written")
    return ShardNote.from_json(text)


def _hash(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


class ShardFile:
    """The open file of a shard: its pages are checked as they are read, a row group comes in one request."""

    def __init__(self, uri: str) -> None:
        fs, path = storage.arrow_filesystem(uri)
        self._uri, self._source, self._lock = uri, fs.open_input_file(path), threading.Lock()
        parquet = pq.ParquetFile(self._source)
        self._metadata = parquet.metadata
        self.schema: pa.Schema = parquet.schema_arrow
        counts = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        """(groups + 1,): the first row of each row group, and the number of rows."""

    def read(self, group: int) -> pa.Table:
        """A row group, all of it checked: the columns of StoredSample. Not for several threads at once."""
        return self._parquet().read_row_group(group).select(StoredSample._fields)

    def facts(self) -> tuple[ShardNote, pa.Table]:
        """Its note and records.SAMPLES. Raises ValueError if they are not those that were written."""
        note = _note_in(self.schema)
        if "digest" in self.schema.names:
            samples = self._parquet().read(columns=SAMPLES.names).replace_schema_metadata()
        else:  # an old shard
            rows = json.loads(self.schema.metadata[_NOTE])["samples"]
            samples = pa.Table.from_pylist(rows, schema=SAMPLES)
        if facts_hash(samples) != note.facts_hash:
            raise ValueError("its samples' facts are not those that were written")
        return note, samples

    def sample(self, row: int) -> Sample:
        """The sample in a row; many threads may ask, and the process keeps the row groups read last."""
        if not 0 <= row < self.starts[-1]:
            raise ValueError(f"{self._uri} has {self.starts[-1]} rows, asked for row {row}")
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        (stored,) = self._kept(group).slice(row - int(self.starts[group]), 1).to_pylist()
        return StoredSample(**stored).decoded(self._text_dim)

    @functools.cached_property
    def _text_dim(self) -> int:
        return int(json.loads(self.schema.metadata[_NOTE])["text_dim"])

    def _kept(self, group: int) -> pa.Table:
        key = (self._uri, group)
        with _groups_lock:
            if key in _groups:
                return _groups[key]
        try:
            with self._lock:
                table = self.read(group)
        except FileNotFoundError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise OSError(f"{self._uri} is damaged ({error}); run vitascope shards verify") from error
        with _groups_lock:
            return _groups.setdefault(key, table)

    def _parquet(self) -> pq.ParquetFile:
        # A reader that fetches in one request keeps what it fetched; so each read has its own.
        return pq.ParquetFile(
            self._source, metadata=self._metadata, pre_buffer=True, page_checksum_verification=True
        )


def row_group_cache(max_bytes: int) -> cachetools.LRUCache[tuple[str, int], pa.Table]:
    """Keeps the row groups used last, at least one: a larger one takes all the room."""
    return cachetools.LRUCache(max_bytes, getsizeof=lambda table: min(table.nbytes, max_bytes))


_groups = row_group_cache(CACHE_BYTES)
_groups_lock = threading.Lock()
_open_shard = functools.lru_cache(maxsize=256)(ShardFile)


def read_samples(latents: str, places: Sequence[tuple[int, int]]) -> list[Sample]:
    """The samples at `places`, (shard, row) pairs, in that order; only their row groups are read.

    Safe in many threads.
    """
    return [_open_shard(shard_uri(latents, int(shard))).sample(int(row)) for shard, row in places]


def put_no_caption(latents: str, states: torch.Tensor) -> None:
    """Commits the states (m, dim) that stand for no caption, unless there are none or they are there."""
    if len(states):
        content = safetensors.torch.save({_STATES: states.to(torch.bfloat16)})
        storage.create(storage.join(latents, NO_CAPTION), content)


@functools.lru_cache(maxsize=4)
def no_caption(latents: str) -> torch.Tensor:
    """bf16 (m, dim): the states of a sample without its caption; m is 0 unless the text encoder has some."""
    facts = storage.read_json(storage.join(latents, "encode.json"))
    if not facts.get("no_caption"):
        return torch.zeros(0, facts["text_dim"], dtype=torch.bfloat16)
    return safetensors.torch.load(storage.read_bytes(storage.join(latents, NO_CAPTION)))[_STATES]
