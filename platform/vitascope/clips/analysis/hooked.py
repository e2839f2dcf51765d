"""Hooks' scores of clips, kept between runs.

For each hook, which is a function and its options, a folder in the catalog; in it one for each part of the
catalog, and in that a file for every few clips that were scored. So other thresholds, and a run that was
killed, decode no frame for a score that is there.
"""

import itertools
import math
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from vitascope import records, storage
from vitascope.clips import hooks
from vitascope.clips.analysis.letterbox import crop_of
from vitascope.clips.filters import HookFilter
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Rejected, Status
from vitascope.media.clip import SOURCE, read_clip

BATCH = 32
"""Most frames that a function gets at once."""

_BATCH_BYTES = 256 << 20
_COMMITTED = 256  # clips at most whose scores are lost when a worker is

_LOOKS = "looks"  # the column by which near twins are found: a list for each clip
_Row = dict[str, Any]
_Scores = dict[str, _Row]


def add(rows: list[_Row], catalog: str, part: str, settings: ClipsSettings) -> int:
    """Adds hooks' scores to the good ones of the clips of a part; how many had to be decoded for it.

    A clip whose frame does not decode is dropped.
    """
    rows = [row for row in rows if row["status"] == Status.OK]
    used = _used(settings)
    folders = {name: _folder(rule, catalog, part, settings) for name, rule in used.items()}
    known = {name: _known(folder) for name, folder in folders.items()}
    todo = [row for row in rows if any(row["clip_id"] not in known[name] for name in used)]
    for begin in range(0, len(todo), _COMMITTED):
        some = todo[begin : begin + _COMMITTED]
        for name, found in _scored(some, used, known, settings.decode_timeout_s).items():
            _commit(folders[name], found, name)
            known[name] |= found
    for row in rows:
        for name in used:
            about = known[name][row["clip_id"]]
            row |= {} if about["score"] is None else {name: about["score"]}
            row |= records.dropped(about["reason"], about["detail"]) if about["detail"] else {}
    return len(todo)


def _used(settings: ClipsSettings) -> dict[str, HookFilter]:
    """The hooks by the columns they give; an image model for near twins is one."""
    used = {name: rule for name, rule in settings.filters.used() if isinstance(rule, HookFilter)}
    if settings.duplicates == "near" and settings.duplicates_model:
        used[_LOOKS] = HookFilter(function=_LOOKS, options={"model": settings.duplicates_model})
    return used


def _folder(rule: HookFilter, catalog: str, part: str, settings: ClipsSettings) -> str:
    hook = (rule.function, *sorted(rule.options.items()), settings.letterbox)
    return storage.join(catalog, records.stable_id("hook", *hook), posixpath.basename(part).split(".")[0])


def _known(folder: str) -> _Scores:
    """Scores by clip; if there was no frame to score, it is tried again: a busy machine may be slow."""
    rows = (row for uri in storage.list_files(folder) for row in storage.rows(uri))
    return {row["clip_id"]: row for row in rows if row["detail"] is None}


def _schema(name: str) -> pa.Schema:
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("score", pa.list_(pa.int64()) if name == _LOOKS else pa.float32()),  # null if none
            pa.field("detail", pa.string()),  # why there is no frame to score
        ]
    )


def _commit(folder: str, found: _Scores, name: str) -> None:
    if found:
        uri = storage.join(folder, f"scores-{records.stable_id(*found)}.parquet")
        storage.put_table(uri, pa.Table.from_pylist(list(found.values()), schema=_schema(name)))


def _scored(
    rows: list[_Row], used: dict[str, HookFilter], known: dict[str, _Scores], timeout_s: float
) -> dict[str, _Scores]:
    """What each hook says of those clips that it does not know."""
    found: dict[str, _Scores] = {name: {} for name in used}
    for batch in batches(rows):
        frames, lost = _middle_frames(batch, timeout_s)
        for name, rule in used.items():
            new = {row["clip_id"] for row in batch} - known[name].keys()
            found[name] |= {i: {"clip_id": i, "score": None} | why for i, why in lost.items() if i in new}
            found[name] |= _scores({i: frame for i, frame in frames.items() if i in new}, name, rule)
    return found


def batches(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Clips of one size whose frames are given to a function at once."""
    for _, same in itertools.groupby(sorted(rows, key=_size), key=_size):
        clips = list(same)
        n = max(min(BATCH, _BATCH_BYTES // (3 * clips[0]["width"] * clips[0]["height"])), 1)
        yield from (clips[begin : begin + n] for begin in range(0, len(clips), n))


def _size(row: _Row) -> tuple[int, int]:
    return row["height"], row["width"]


def _middle_frames(rows: list[_Row], timeout_s: float) -> tuple[dict[str, np.ndarray], dict[str, _Row]]:
    """Each clip's middle frame (H W 3), within its bars, by its id; or why there is none."""
    frames, lost = {}, {}
    for row in rows:
        where = {key: row[key] for key in SOURCE}
        where["start_s"] = row["start_s"] + row["n_frames"] // 2 / row["fps"]
        try:
            (frame,) = read_clip(crop=crop_of(row), timeout_s=timeout_s, **where)
            frames[row["clip_id"]] = frame
        except Rejected as rejected:
            lost[row["clip_id"]] = {"reason": rejected.reason, "detail": rejected.detail}
    return frames, lost


def _scores(frames: dict[str, np.ndarray], name: str, rule: HookFilter) -> _Scores:
    found: _Scores = {}
    for shape in {frame.shape for frame in frames.values()}:  # one, but for a file that changes its size
        alike = {i: frame for i, frame in frames.items() if frame.shape == shape}
        scores = _given(np.stack(list(alike.values())), name, rule)
        found |= {i: {"clip_id": i, "score": s, "detail": None} for i, s in zip(alike, scores, strict=True)}
    return found


def _given(frames: np.ndarray, name: str, rule: HookFilter) -> list[Any]:
    if name == _LOOKS:
        return hooks.looks(frames, model=str(rule.options["model"])).tolist()
    return [score if math.isfinite(score) else None for score in hooks.score(frames, rule).tolist()]
