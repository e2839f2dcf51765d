"""The tables of a run's data, as columns."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import storage
from vitascope.clips import table
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import INDEX, read_index
from vitascope.encode.stage import DROPS_FILE
from vitascope.ledger import Status
from vitascope.records import DROPS, SAMPLES
from vitascope.wording import short

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """The tables of `records`, and what follows from their columns.

    clips: with the captions that the caption stage found. answers: what became of each of its questions about
    them, as table.CAPTIONS. samples, drops: empty if `encoded` is false, as the encode stage has not
    been run with these settings. missing: by file, why it cannot be read; the page does without it.
    notes: what the stages chose in silence.
    """

    settings: Settings
    videos: pa.Table
    clips: pa.Table
    answers: pa.Table
    samples: pa.Table
    drops: pa.Table
    encoded: bool
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def good_videos(self) -> Bools:
        """The files that could be used."""
        return is_in(self.videos, "status", str(Status.OK))

    @cached_property
    def good(self) -> Bools:
        """The clips that are kept."""
        return is_in(self.clips, "status", str(Status.OK))

    @cached_property
    def seconds(self) -> Floats:
        """Each clip's, 0 for images."""
        return np.where(
            is_in(self.clips, "kind", "image"), 0, self.numbers("end_s") - self.numbers("start_s")
        )

    @cached_property
    def sizes(self) -> Ints:
        """(N, 3): frames, height and width of each clip."""
        axes = (self.numbers(name) for name in ("n_frames", "height", "width"))
        return np.stack(list(axes), axis=1).astype(np.int64)

    @cached_property
    def clip_of_sample(self) -> Ints:
        """The row of each sample's clip; -1 if the clips table has changed since."""
        return self.rows_of(self.samples["clip_id"])

    @cached_property
    def tokens(self) -> Ints:
        """Patches of each sample."""
        sides = (numbers(self.samples, f"latent_{axis}") for axis in ("frames", "height", "width"))
        return (np.prod(list(sides), axis=0) // self.settings.model.patch**2).astype(np.int64)

    def numbers(self, name: str) -> Floats:
        """A column of the clips table; NaN for null, and if there is no such column."""
        return numbers(self.clips, name)

    def rows_of(self, clip_ids: pa.ChunkedArray) -> Ints:
        """Where these clips stand in the clips table; -1 for none."""
        return np.asarray(pc.fill_null(pc.index_in(clip_ids, self.clips["clip_id"]), -1), np.int64)


def read(settings: Settings) -> Dataset:
    """Reads what is there.

    Raises:
        Missing: the clips stage has not been run.
    """
    latents, captions = latents_folder(settings), settings.path("captions")
    missing: dict[str, str] = {}
    answered = _or(missing, captions, lambda: table.answers(captions, settings.caption), [])
    clips = table.clip_table(settings, answered)
    index, drops = (storage.join(latents, name) for name in (INDEX, DROPS_FILE))
    samples = drop_rows = None
    if storage.exists(index):
        samples = _or(missing, index, lambda: read_index(latents), None)
        drop_rows = _or(missing, drops, lambda: storage.read_table(drops), None)
    return Dataset(
        settings=settings,
        videos=storage.read_table(settings.path("videos")),
        clips=clips,
        answers=_answers_of(clips["clip_id"], answered),
        samples=SAMPLES.empty_table() if samples is None else samples,
        drops=DROPS.empty_table() if drop_rows is None else drop_rows,
        encoded=samples is not None,
        missing=missing,
        notes=tuple(_notes(settings)),
    )


def _notes(settings: Settings) -> Iterator[str]:
    """The notes in the summaries of the stages that have made the tables."""
    for stage in ("clips", "caption", "encode"):
        location = settings.path("summaries", f"{stage}.json")
        if storage.exists(location):
            summary = _or({}, location, functools.partial(storage.read_json, location), {})
            yield from (f"{stage}: {note}" for note in summary.get("notes", ()))


def _or(missing: dict[str, str], location: str, read: Callable[[], Any], nothing: Any) -> Any:
    """What `read` gives; if a file is damaged or gone, `nothing`, and a word on it in `missing`."""
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        missing[location] = short(f"cannot be read ({error})", 400)
        return nothing


def _answers_of(clip_ids: pa.ChunkedArray, rows: list[dict[str, Any]]) -> pa.Table:
    """The rows of table.CAPTIONS about these clips."""
    answered = pa.Table.from_pylist(rows, schema=table.CAPTIONS)
    return answered.filter(pc.is_in(answered["clip_id"], value_set=clip_ids.combine_chunks()))


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as float64 (N,): NaN for null, and if there is no such column."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), np.float64)


def is_in(table: pa.Table, name: str, *values: str) -> Bools:
    """Which rows have one of these texts in a column."""
    return np.asarray(pc.is_in(table[name], pa.array(values)), bool)


def labels(column: pa.ChunkedArray | pa.Array) -> tuple[list[Any], Ints]:
    """The distinct values of a column, the most frequent first, and (N,) which each row has; -1 for null."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = column.dictionary_encode()
    codes = np.asarray(pc.fill_null(coded.indices, -1), np.int64)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(coded.dictionary)), kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), -1
    return coded.dictionary.take(pa.array(order)).to_pylist(), place[codes]
