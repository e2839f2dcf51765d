"""Drops duplicates from the clip table."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.clips.dedup import joins
from vitascope.clips.dedup.hashing import EMBEDDINGS, FRAMES, WORDS, Measure
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import CLIPS
from vitascope.ledger import Reason, Status

FOUND_BY = pa.schema(
    [
        pa.field("content", pa.string()),  # hash of the source's bytes
        pa.field(
            "hashes", pa.large_list(pa.int64())
        ),  # 7 hashes a frame: of joins.thin, or of an image model
    ]
)
"""Columns that duplicates are found by, in addition to CLIPS."""


@dataclass(frozen=True)
class _Duplicate:
    """A clip that is dropped: the row of the clip kept in its place, and the detail for the ledger."""

    kept: int
    detail: str


_Duplicates = dict[int, _Duplicate]
"""By the row of the clip that is dropped."""


def without_duplicates(clips: pa.Table, settings: ClipsSettings) -> pa.Table:
    """Keeps one of every set of duplicates: first for validation, then with a caption, then the largest.

    Clips that lack only a caption are compared too: if they get one later, no duplicate of a held-out clip
    must be among the training clips.
    """
    same: dict[int, int] = {}
    duplicates: _Duplicates = {}
    rows = _by_preference(clips)
    if settings.duplicates != "keep":
        same = _same_bytes(clips, rows)
    if settings.duplicates == "near":
        duplicates = _similar(clips, rows[~np.isin(rows, list(same))], settings)
    duplicates |= _same_as(clips, same, duplicates)
    dropped = np.zeros(len(clips), bool)
    dropped[list(duplicates)] = True
    mask, ordered = pa.array(dropped), [duplicates[row] for row in sorted(duplicates)]
    kept = clips["clip_id"].take(pa.array([d.kept for d in ordered], pa.int64()))
    outcome = {
        "status": pc.if_else(mask, str(Status.DROPPED), clips["status"]),
        "reason": pc.if_else(mask, str(Reason.DUPLICATE), clips["reason"]),
        "detail": _replaced(clips["detail"], mask, pa.array([d.detail for d in ordered], pa.string())),
        "duplicate_of": _replaced(clips["duplicate_of"], mask, kept.combine_chunks()),
    }
    for name, column in outcome.items():
        clips = clips.set_column(clips.schema.get_field_index(name), CLIPS.field(name), column)
    return clips


def _replaced(column: pa.ChunkedArray, mask: pa.Array, values: pa.Array) -> pa.Array:
    return pc.replace_with_mask(column.combine_chunks(), mask, values)


def _by_preference(clips: pa.Table) -> np.ndarray:
    """The rows of the clips that may be kept, in order of preference."""
    ok = np.asarray(pc.equal(clips["status"], str(Status.OK)))
    good = ok | np.asarray(pc.equal(clips["reason"], str(Reason.NO_CAPTION)).fill_null(False))
    train = np.asarray(pc.equal(clips["split"], "train"))
    pixels = np.asarray(clips["width"], np.int64) * np.asarray(clips["height"], np.int64)
    order = np.lexsort((-pixels, ~ok, train))  # stable: ties keep their order
    return order[good[order]]


def _same_bytes(clips: pa.Table, rows: np.ndarray) -> dict[int, int]:
    """The clips cut from files with the same content: row -> row of the preferred clip."""
    words = (pc.cast(clips[name].take(rows), pa.string()) for name in ("content", "start_s", "n_frames"))
    first = joins.exact_duplicates(pc.binary_join_element_wise(*words, " ").combine_chunks())
    copies = np.flatnonzero(first >= 0)
    return dict(zip(rows[copies].tolist(), rows[first[copies]].tolist(), strict=True))


def _same_as(clips: pa.Table, same: dict[int, int], near: _Duplicates) -> _Duplicates:
    """Clips with the same bytes: duplicates of the preferred one, or of the clip that it duplicates."""
    names = clips["name"].take(pa.array(same.values(), pa.int64())).to_pylist()
    return {
        row: near.get(first, _Duplicate(first, f"the same bytes as {name}"))
        for (row, first), name in zip(same.items(), names, strict=True)
    }


def _similar(clips: pa.Table, rows: np.ndarray, settings: ClipsSettings) -> _Duplicates:
    """The clips that show what another one shows."""
    some = clips.select(["hashes", "name", "start_s", "end_s", "split"]).take(rows)
    held_out = np.asarray(pc.equal(some["split"], "val"))
    measure = EMBEDDINGS if settings.duplicates_model else FRAMES
    near = joins.near_duplicates(hashes_of(some, measure), settings.duplicates_bits, held_out=held_out)
    copies = np.flatnonzero(near.kept >= 0)
    kept = near.kept[copies]
    shown = some.select(["name", "start_s"]).take(kept).to_pylist()
    details = [
        joins.duplicate_detail(**a, distance=b) for a, b in zip(shown, near.distance[copies], strict=True)
    ]
    return dict(zip(rows[copies].tolist(), map(_Duplicate, rows[kept].tolist(), details), strict=True))


def hashes_of(clips: pa.Table, measure: Measure) -> joins.ClipHashes:
    """The columns of a clips table that near duplicates are found by."""
    hashes = clips["hashes"].combine_chunks()
    return joins.ClipHashes(
        hashes=np.asarray(hashes.flatten()).reshape(-1, WORDS),
        offsets=np.r_[0, np.cumsum(pc.list_value_length(hashes))] // WORDS,
        source=np.asarray(clips["name"].combine_chunks().dictionary_encode().indices, np.int64),
        start_s=np.asarray(clips["start_s"]),
        end_s=np.asarray(clips["end_s"]),
        measure=measure,
    )
