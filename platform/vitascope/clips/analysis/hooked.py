"""Scores by hooks, kept between runs.

Each hook (a function and its options) has a folder in the catalog, with a folder for each part of the catalog
and in it a file for every few clips. So other thresholds, and runs after a kill, decode no frame again.
"""

import itertools
import math
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from vitascope import records, storage
from vitascope.clips import hooks
from vitascope.clips.analysis.derive import CutClip
from vitascope.clips.filters import HookFilter
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Rejected

BATCH = 32
"""Most frames in a call of a function."""

_BATCH_BYTES = 256 << 20
_COMMITTED = 256  # clips whose scores are lost at most if a worker is killed

_LOOKS = "looks"  # the hook whose hashes near duplicates are found by


@dataclass(frozen=True)
class _Scored:
    """The result of a hook for a clip: a score, hashes or None; or why no frame could be scored."""

    score: float | list[int] | None
    reason: str | None = None
    detail: str | None = None


_ByClip = dict[str, _Scored]


def add(clips: list[CutClip], catalog: str, part: str, settings: ClipsSettings) -> tuple[list[CutClip], int]:
    """The clips of a part, the good ones with scores of hooks; and how many were decoded for that.

    A clip whose frame does not decode is dropped.
    """
    good = [clip for clip in clips if clip.is_good]
    used = _used(settings)
    folders = {name: _folder(rule, catalog, part, settings) for name, rule in used.items()}
    known = {name: _known(folder) for name, folder in folders.items()}
    todo = [clip for clip in good if any(clip.clip_id not in known[name] for name in used)]
    for begin in range(0, len(todo), _COMMITTED):
        some = todo[begin : begin + _COMMITTED]
        for name, scored in _scored(some, used, known, settings.decode_timeout_s).items():
            _commit(folders[name], scored, name)
            known[name] |= scored
    with_scores = [
        _with(clip, {name: known[name][clip.clip_id] for name in used}) if clip.is_good else clip
        for clip in clips
    ]
    return with_scores, len(todo)


def _with(clip: CutClip, scored: Mapping[str, _Scored]) -> CutClip:
    for name, given in scored.items():
        if given.detail:
            clip = replace(clip, outcome=records.dropped(str(given.reason), given.detail))
        elif isinstance(given.score, list):
            clip = replace(clip, hashes=given.score)
        elif given.score is not None:
            clip = replace(clip, scores={**clip.scores, name: given.score})
    return clip


def _used(settings: ClipsSettings) -> dict[str, HookFilter]:
    """The hooks by column; an image model for near duplicates is one of them."""
    used = {name: rule for name, rule in settings.filters.used() if isinstance(rule, HookFilter)}
    if settings.duplicates == "near" and settings.duplicates_model:
        used[_LOOKS] = HookFilter(function=_LOOKS, options={"model": settings.duplicates_model})
    return used


def _folder(rule: HookFilter, catalog: str, part: str, settings: ClipsSettings) -> str:
    hook = (rule.function, *sorted(rule.options.items()), settings.letterbox)
    return storage.join(catalog, records.stable_id("hook", *hook), posixpath.basename(part).split(".")[0])


def _known(folder: str) -> _ByClip:
    """Scores by clip; clips without a frame are tried again, as a busy machine may have been too slow."""
    rows = (row for uri in storage.list_files(folder) for row in storage.rows(uri))
    return {row["clip_id"]: _Scored(row["score"]) for row in rows if row["detail"] is None}


def _schema(name: str) -> pa.Schema:
    return pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("score", pa.list_(pa.int64()) if name == _LOOKS else pa.float32()),  # null if none
            pa.field("detail", pa.string()),  # why no frame could be scored
        ]
    )


def _commit(folder: str, scored: _ByClip, name: str) -> None:
    if scored:
        uri = storage.join(folder, f"scores-{records.stable_id(*scored)}.parquet")
        rows = [{"clip_id": clip_id} | vars(given) for clip_id, given in scored.items()]
        storage.put_table(uri, pa.Table.from_pylist(rows, schema=_schema(name)))


def _scored(
    clips: list[CutClip], used: dict[str, HookFilter], known: dict[str, _ByClip], timeout_s: float
) -> dict[str, _ByClip]:
    """The results of each hook for the clips without one."""
    scored: dict[str, _ByClip] = {name: {} for name in used}
    for batch in batches(clips):
        frames, lost = _middle_frames(batch, timeout_s)
        for name, rule in used.items():
            new = {clip.clip_id for clip in batch} - known[name].keys()
            scored[name] |= {clip_id: why for clip_id, why in lost.items() if clip_id in new}
            scored[name] |= _given({i: frame for i, frame in frames.items() if i in new}, name, rule)
    return scored


def batches(clips: list[CutClip]) -> Iterator[list[CutClip]]:
    """Clips of one size, whose frames go into one call of a function."""
    for _, same in itertools.groupby(sorted(clips, key=_size), key=_size):
        alike = list(same)
        n = max(min(BATCH, _BATCH_BYTES // (3 * alike[0].width * alike[0].height)), 1)
        yield from (alike[begin : begin + n] for begin in range(0, len(alike), n))


def _size(clip: CutClip) -> tuple[int, int]:
    return clip.height, clip.width


def _middle_frames(clips: list[CutClip], timeout_s: float) -> tuple[dict[str, np.ndarray], _ByClip]:
    """Each clip's middle frame (H W 3), within its bars, by its id; or why there is none."""
    frames, lost = {}, {}
    for clip in clips:
        try:
            (frames[clip.clip_id],) = clip.clip.frames(1, timeout_s=timeout_s)
        except Rejected as rejected:
            lost[clip.clip_id] = _Scored(None, str(rejected.reason), rejected.detail)
    return frames, lost


def _given(frames: dict[str, np.ndarray], name: str, rule: HookFilter) -> _ByClip:
    scored: _ByClip = {}
    for shape in {frame.shape for frame in frames.values()}:  # one, unless a file has changed its size
        alike = {i: frame for i, frame in frames.items() if frame.shape == shape}
        given = _of_frames(np.stack(list(alike.values())), name, rule)
        scored |= {clip_id: _Scored(score) for clip_id, score in zip(alike, given, strict=True)}
    return scored


def _of_frames(frames: np.ndarray, name: str, rule: HookFilter) -> list[Any]:
    if name == _LOOKS:
        return hooks.looks(frames, model=str(rule.options["model"])).tolist()
    return [score if math.isfinite(score) else None for score in hooks.score(frames, rule).tolist()]
