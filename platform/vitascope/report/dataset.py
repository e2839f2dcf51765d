"""A run, read once, as columns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from vitascope import records, storage
from vitascope.clips import table
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.shards import INDEX, read_index
from vitascope.encode.stage import DROPS_FILE
from vitascope.errors import Missing
from vitascope.ledger import Status
from vitascope.model.formats.card import ModelCard, load_card
from vitascope.stages import runner
from vitascope.stages.registry import STAGES
from vitascope.stages.running import summary_location
from vitascope.train import log
from vitascope.wording import short

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Row = Mapping[str, Any]
"""A row of a table of `records`, or a JSON document."""

STEPS = pa.schema([("step", pa.int64()), ("loss", pa.float64()), ("tokens_per_s", pa.float64())])
"""A step of training's log; the loss of a skipped one is null."""

HELD_OUT = pa.schema([("step", pa.int64()), ("val_loss", pa.float64())])
_DATA = ("clips", "caption", "encode")
_MOST_OF_ERROR = 400
_Part = TypeVar("_Part")


@dataclass(frozen=True, eq=False)
class Dataset:
    """What the stages of a run have written; tables are empty if a stage has not run.

    videos, clips, samples, drops, manifest: the tables of `clips.table` and `records`, clips with the
    captions of the caption stage. answers: table.CAPTIONS about them. encoded: whether these settings'
    samples could be read. steps, held_out: training's log, STEPS and HELD_OUT. losses: evaluation's document.
    card: of the model that generates. summaries: by stage, of those that have ended. missing: by file, why
    something that such a stage wrote cannot be read; by folder, which steps its log lacks.
    """

    settings: Settings
    videos: pa.Table
    clips: pa.Table
    answers: pa.Table
    samples: pa.Table
    drops: pa.Table
    encoded: bool
    steps: pa.Table
    held_out: pa.Table
    losses: Row
    manifest: pa.Table
    card: ModelCard | None
    summaries: Mapping[str, Row]
    missing: Mapping[str, str]

    @property
    def notes(self) -> list[str]:
        """What the stages chose in silence."""
        return [f"{stage}: {note}" for stage, s in self.summaries.items() for note in s.get("notes", ())]

    @cached_property
    def good_videos(self) -> Bools:
        """The files that could be used."""
        return is_in(self.videos, "status", Status.OK)

    @cached_property
    def good(self) -> Bools:
        """The clips that are kept."""
        return is_in(self.clips, "status", Status.OK)

    @cached_property
    def seconds(self) -> Floats:
        """Each clip's duration, 0 for images."""
        return np.where(
            is_in(self.clips, "kind", "image"), 0, self.numbers("end_s") - self.numbers("start_s")
        )

    @cached_property
    def sizes(self) -> Ints:
        """(N, 3): frames, height and width of each clip."""
        return sizes_of(self.clips)

    @cached_property
    def clip_of_sample(self) -> Ints:
        """The row of each sample's clip; -1 if the clips table has changed since."""
        return self.rows_of(self.samples["clip_id"])

    @cached_property
    def kept_of(self) -> Ints:
        """The row of the clip kept in place of each duplicate; -1 for all other clips."""
        return self.rows_of(self.clips["duplicate_of"])

    @cached_property
    def tokens(self) -> Ints:
        """Patches of each sample."""
        sides = (numbers(self.samples, f"latent_{axis}") for axis in ("frames", "height", "width"))
        return (np.prod(list(sides), axis=0) // self.settings.model.patch**2).astype(np.int64)

    def numbers(self, name: str) -> Floats:
        """A column of the clips table; NaN for null, and if the table has no such column."""
        return numbers(self.clips, name)

    def rows_of(self, clip_ids: pa.ChunkedArray) -> Ints:
        """The rows of these clips in the clips table; -1 for those it lacks."""
        return np.asarray(pc.fill_null(pc.index_in(clip_ids, self.clips["clip_id"]), -1), np.int64)


def read(settings: Settings, *, data_only: bool = False) -> Dataset:
    """Reads what the stages have written; with `data_only`, those of the data alone.

    Raises:
        Missing: no stage has ended; with `data_only`, the clips stage has not.
    """
    reader = _Reader(settings, _DATA if data_only else tuple(STAGES))
    if not (reader.summaries or data_only):
        raise Missing(
            f"no stage has ended in {settings.path()}; run one first, or set run.folder to another run's"
        )
    path, latents = settings.path, latents_folder(settings)
    outputs = path("outputs", settings.generate.batch, "manifest.parquet")
    read_table, strict = storage.read_table, data_only
    videos = reader.part("clips", path("videos"), read_table, table.VIDEOS.empty_table(), strict=strict)
    answered: list[Any] = reader.part(
        "caption", path("captions"), lambda at: table.answers(at, settings.caption), []
    )
    clips = reader.part(
        "clips",
        path("clips"),
        lambda _: table.clip_table(settings, answered),
        table.CLIPS.empty_table(),
        strict=strict,
    )
    index, drops_file = (storage.join(latents, name) for name in (INDEX, DROPS_FILE))
    samples, drops = None, records.DROPS.empty_table()
    if not data_only or storage.exists(index):  # a summary may be of other settings, with other latents
        samples = reader.part("encode", index, lambda _: read_index(latents), None)
        drops = reader.part("encode", drops_file, read_table, drops)
    rows: list[Any] = reader.part("train", path("train", "metrics"), _log, [])
    steps = pa.Table.from_pylist([row for row in rows if "loss" in row], STEPS)
    if lost := rows and _gaps(steps["step"].drop_null().to_pylist(), reader.trained(settings)):
        reader.missing[path("train", "metrics")] = short(f"lacks {lost}", _MOST_OF_ERROR)
    return Dataset(
        settings=settings,
        videos=videos,
        clips=clips,
        answers=_answers_of(clips, answered),
        samples=records.SAMPLES.empty_table() if samples is None else samples,
        drops=drops,
        encoded=samples is not None,
        steps=steps,
        held_out=pa.Table.from_pylist([r for r in rows if r.get("val_loss") is not None], HELD_OUT),
        losses=reader.part("evaluate", path("evaluate", "losses.json"), storage.read_json, {}),
        manifest=reader.part("generate", outputs, read_table, records.MANIFEST.empty_table()),
        card=reader.part("train", settings.generate.model or path("model"), load_card, None),
        summaries=reader.summaries,
        missing=reader.missing,
    )


class _Reader:
    """Reads the files of some stages one by one, and notes which of them cannot be read."""

    def __init__(self, settings: Settings, stages: tuple[str, ...]) -> None:
        self.missing: dict[str, str] = {}
        self.summaries: dict[str, Row] = {}
        self._stages = stages
        for stage in (name for name in stages if STAGES[name].has_summary):
            location = summary_location(settings, stage)
            if storage.exists(location):
                self.summaries[stage] = self.part(stage, location, storage.read_json, {})

    def part(
        self, stage: str, location: str, read: Callable[[str], _Part], nothing: _Part, *, strict: bool = False
    ) -> _Part:
        """What `read` makes of a location; unless `strict`, `nothing` if that fails."""
        if stage not in self._stages:
            return nothing
        try:
            return read(location)
        except storage.Unavailable:
            raise
        except Exception as error:  # whatever a damaged file leads to
            if strict:
                raise
            if not isinstance(error, FileNotFoundError):
                why = f"cannot be read ({type(error).__name__}: {error})"
            elif stage in self.summaries:
                why = f"is gone ({error})"
            else:
                return nothing
            self.missing[location] = short(why, _MOST_OF_ERROR)
        return nothing

    def trained(self, settings: Settings) -> int:
        """How many steps training's log must have; 0 if training has not ended since it last began."""
        none = dict[str, runner.Mark]()
        marks = self.part("train", settings.path("flow"), lambda _: runner.read_marks(settings), none)
        has_begun_again = "train" in marks and marks["train"].digest is None
        return 0 if has_begun_again else self.summaries.get("train", {}).get("steps", 0)


def _log(folder: str) -> list[log.Row]:
    rows = log.read(folder)
    if not rows:
        raise FileNotFoundError(f"no step in {folder}")
    return rows


def _gaps(steps: list[int], n: int) -> str:
    """The steps that are not among these, of the first `n` and before their last: `steps 2 to 5, 9`."""
    end = max([n, *(step + 1 for step in steps)])
    gaps = [(a + 1, b - 1) for a, b in pairwise(sorted({-1, *steps, end})) if b - a > 1]
    listed = ", ".join(f"{first} to {last}" if first < last else str(first) for first, last in gaps)
    one = len(gaps) == 1 and gaps[0][0] == gaps[0][1]
    return f"step{'' if one else 's'} {listed}" if gaps else ""


def _answers_of(clips: pa.Table, rows: list[dict[str, Any]]) -> pa.Table:
    """The rows of table.CAPTIONS about these clips."""
    answered = pa.Table.from_pylist(rows, schema=table.CAPTIONS)
    return answered.filter(pc.is_in(answered["clip_id"], value_set=clips["clip_id"].combine_chunks()))


def numbers(table: pa.Table, name: str) -> Floats:
    """A column as float64 (N,): NaN for null, and if the table has no such column."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(pc.cast(table[name], pa.float64()).to_numpy(), np.float64)


def sizes_of(table: pa.Table) -> Ints:
    """(N, 3): the columns n_frames, height and width."""
    axes = [numbers(table, name) for name in ("n_frames", "height", "width")]
    return np.stack(axes, axis=1).astype(np.int64)


def is_in(table: pa.Table, name: str, *values: str) -> Bools:
    """Which rows have one of these texts in a column."""
    return np.asarray(pc.is_in(table[name], pa.array(map(str, values))), bool)


def row_of(table: pa.Table, row: int) -> Row:
    """A row by its number."""
    found: Row = table.slice(row, 1).to_pylist()[0]
    return found


def dropped(table: pa.Table) -> pa.Table:
    """The rows that were dropped."""
    return table.filter(pa.array(is_in(table, "status", Status.DROPPED)))


def labels(column: pa.ChunkedArray) -> tuple[list[Any], Ints]:
    """The distinct values of a column, the most frequent first, and (N,) which each row has; -1 for null."""
    coded = column.combine_chunks().dictionary_encode()
    codes = np.asarray(pc.fill_null(coded.indices, -1), np.int64)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(coded.dictionary)), kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), -1
    return coded.dictionary.take(pa.array(order)).to_pylist(), place[codes]


def counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column, the most frequent first; null is left out."""
    names, which = labels(column)
    times = np.bincount(which[which >= 0], minlength=len(names)).tolist()
    shown = (f"{name:g}" if isinstance(name, float) else str(name) for name in names)
    return dict(zip(shown, times, strict=True))
