"""What of the clip table is dropped as a twin."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.clips.dedup import joins as dedup
from vitascope.clips.dedup.hashing import EMBEDDINGS, FRAMES, WORDS, Measure
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import CLIPS
from vitascope.ledger import Reason, Status

FOUND_BY = pa.schema(
    [
        pa.field("content", pa.string()),  # hash of the source's bytes
        pa.field("looks", pa.large_list(pa.int64())),  # 7 hashes a frame: of dedup.thin, or of an image model
    ]
)
"""What twins are found by, beside CLIPS."""


@dataclass(frozen=True)
class _Twin:
    """Why a clip is dropped: the row of the one that is kept, and what the ledger says."""

    kept: int
    detail: str


_Twins = dict[int, _Twin]
"""By the row of the clip that is dropped."""


def without_twins(clips: pa.Table, settings: ClipsSettings) -> pa.Table:
    """Of clips that are the same one is kept: for validation first, then with a caption, then the largest.

    Clips that lack only a caption are compared too: when they get one later, no duplicate of a held-out clip
    may be among those trained on.
    """
    same: dict[int, int] = {}
    twins: _Twins = {}
    rows = _by_preference(clips)
    if settings.duplicates != "keep":
        same = _same_bytes(clips, rows)
    if settings.duplicates == "near":
        twins = _same_looks(clips, rows[~np.isin(rows, list(same))], settings)
    twins |= _same_as(clips, same, twins)
    dropped = np.zeros(len(clips), bool)
    dropped[list(twins)] = True
    mask, ordered = pa.array(dropped), [twins[row] for row in sorted(twins)]
    kept = clips["clip_id"].take(pa.array([twin.kept for twin in ordered], pa.int64()))
    outcome = {
        "status": pc.if_else(mask, str(Status.DROPPED), clips["status"]),
        "reason": pc.if_else(mask, str(Reason.DUPLICATE), clips["reason"]),
        "detail": _replaced(clips["detail"], mask, pa.array([twin.detail for twin in ordered], pa.string())),
        "duplicate_of": _replaced(clips["duplicate_of"], mask, kept.combine_chunks()),
    }
    for name, column in outcome.items():
        clips = clips.set_column(clips.schema.get_field_index(name), CLIPS.field(name), column)
    return clips


def _replaced(column: pa.ChunkedArray, mask: pa.Array, values: pa.Array) -> pa.Array:
    return pc.replace_with_mask(column.combine_chunks(), mask, values)


def _by_preference(clips: pa.Table) -> np.ndarray:
    """The rows of the clips that may be kept, the one to be kept of two that are the same first."""
    ok = np.asarray(pc.equal(clips["status"], str(Status.OK)))
    good = ok | np.asarray(pc.equal(clips["reason"], str(Reason.NO_CAPTION)).fill_null(False))
    train = np.asarray(pc.equal(clips["split"], "train"))
    pixels = np.asarray(clips["width"], np.int64) * np.asarray(clips["height"], np.int64)
    order = np.lexsort((-pixels, ~ok, train))  # stable: rows alike in all stay in their order
    return order[good[order]]


def _same_bytes(clips: pa.Table, rows: np.ndarray) -> dict[int, int]:
    """The clips cut from files with the same content: row -> that of the one which is preferred."""
    words = (pc.cast(clips[name].take(rows), pa.string()) for name in ("content", "start_s", "n_frames"))
    twin = dedup.exact_twins(pc.binary_join_element_wise(*words, " ").combine_chunks())
    copies = np.flatnonzero(twin >= 0)
    return dict(zip(rows[copies].tolist(), rows[twin[copies]].tolist(), strict=True))


def _same_as(clips: pa.Table, same: dict[int, int], near: _Twins) -> _Twins:
    """Copies with the same bytes: twins of the one preferred, or of what that is itself a twin of."""
    names = clips["name"].take(pa.array(same.values(), pa.int64())).to_pylist()
    return {
        row: near.get(first, _Twin(first, f"the same bytes as {name}"))
        for (row, first), name in zip(same.items(), names, strict=True)
    }


def _same_looks(clips: pa.Table, rows: np.ndarray, settings: ClipsSettings) -> _Twins:
    """The clips that show what another shows."""
    some = clips.select(["looks", "name", "start_s", "end_s", "split"]).take(rows)
    held_out = np.asarray(pc.equal(some["split"], "val"))
    measure = EMBEDDINGS if settings.duplicates_model else FRAMES
    twins = dedup.near_twins(looks_of(some, measure), max_bits=settings.duplicates_bits, held_out=held_out)
    copies = np.flatnonzero(twins.twin >= 0)
    kept = twins.twin[copies]
    shown = some.select(["name", "start_s"]).take(kept).to_pylist()
    details = [dedup.twin_detail(**a, distance=b) for a, b in zip(shown, twins.distance[copies], strict=True)]
    return dict(zip(rows[copies].tolist(), map(_Twin, rows[kept].tolist(), details), strict=True))


def looks_of(clips: pa.Table, measure: Measure) -> dedup.ClipHashes:
    """The column `looks`, and what else near twins are found by."""
    looks = clips["looks"].combine_chunks()
    return dedup.ClipHashes(
        hashes=np.asarray(looks.flatten()).reshape(-1, WORDS),
        offsets=np.r_[0, np.cumsum(pc.list_value_length(looks))] // WORDS,
        source=np.asarray(clips["name"].combine_chunks().dictionary_encode().indices, np.int64),
        start_s=np.asarray(clips["start_s"]),
        end_s=np.asarray(clips["end_s"]),
        measure=measure,
    )
