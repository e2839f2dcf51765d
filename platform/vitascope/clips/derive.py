"""The clips of a file, from its catalog row."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitascope import records
from vitascope.clips import captions, cut, hooks
from vitascope.clips.decode import read_clip
from vitascope.clips.filters import HookFilter
from vitascope.clips.scan import Series, series_of
from vitascope.clips.scores import judge, scores
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.shots import shots
from vitascope.ledger import Reason, Rejected, Status

_SHARED = ("content", "video_id", "uri", "name", "kind", "width", "height", "rotation_deg", "decoder")
_Row = dict[str, Any]


def clips_of(video: _Row, texts: dict[str, str], no_caption: str, settings: ClipsSettings) -> list[_Row]:
    """The rows of records.CLIPS of a row of records.CATALOG; `split` is filled in once all are known.

    Each has besides the columns `content`, `copy_hashes` and `textures`, the contrast of each frame in levels
    of 255, by which twins are found. `texts` are the captions by field, and `no_caption` says why there are
    none. What a filter drops is not asked for its caption. Only hooks see frames again.
    """
    if video["status"] != Status.OK:
        return []
    series = series_of(video)
    rows = [_row(video, span, settings) | outcome for span, outcome in _spans(video, series, settings)]
    whole = [row for row in rows if row["status"] == Status.OK]
    hooked = _hooked(whole, settings)
    whole = [row for row in whole if row["status"] == Status.OK]
    _filter(whole, series, hooked, settings)
    for row in whole:
        row |= _looks(row, series)
        if row["status"] == Status.OK:
            row |= _caption(row["clip_id"], texts, no_caption, settings)
    return rows


def _spans(video: _Row, series: Series, settings: ClipsSettings) -> Iterator[tuple[cut.Span, _Row]]:
    """The spans of every shot; and those of damage, which are dropped."""
    lengths = (settings.fps, settings.durations_s, settings.every_s)
    good = np.isfinite(series["brightness"])
    edges = np.r_[0, np.flatnonzero(np.diff(good)) + 1, len(good)]
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if good[begin]:
            part = {name: values[begin:end] for name, values in series.items()}
            found = shots(part, settings.shots, settings.fps)
            moved = [(begin + first, begin + last) for first, last in found]
            yield from ((span, records.OK) for span in cut.spans_of_shots(moved, *lengths))
        else:
            yield _lost(begin, end, settings.fps, f"{end - begin} of its frames are damaged")
    expected = cut.steps(video["duration_s"], settings.fps) + 1
    if expected - len(good) > cut.steps(min(settings.durations_s), settings.fps):
        what = f"its frames end before {len(good) / settings.fps:.2f} s"
        yield _lost(len(good), expected, settings.fps, what)


def _lost(begin: int, end: int, fps: float, what: str) -> tuple[cut.Span, _Row]:
    span = cut.Span(begin / fps, (end - 1) / fps, end - begin)
    return span, records.dropped(Reason.DECODE_FAILED, what)


def _row(video: _Row, span: cut.Span, settings: ClipsSettings) -> _Row:
    clip_id = records.stable_id(video["video_id"], span.start_s, span.n_frames, settings.fps)
    shared = {key: video[key] for key in _SHARED}
    return shared | dataclasses.asdict(span) | {"clip_id": clip_id, "fps": settings.fps, "split": "train"}


def _looks(row: _Row, series: Series) -> _Row:
    first = round(row["start_s"] * row["fps"])
    frames = slice(first, first + row["n_frames"])
    return {
        "phash": int(series["phash"][frames][row["n_frames"] // 2]),
        "copy_hashes": series["copy_hashes"][frames].ravel(),
        "textures": series["contrast"][frames].astype(np.float32) * 255,
    }


def _caption(clip_id: str, texts: dict[str, str], no_caption: str, settings: ClipsSettings) -> _Row:
    try:
        if not texts:
            raise Rejected(Reason.NO_CAPTION, no_caption)
        return {"caption": texts[captions.draw(texts, settings.caption_fields, clip_id)]}
    except Rejected as rejected:
        return records.dropped(rejected.reason, rejected.detail)


def _hooked(rows: list[_Row], settings: ClipsSettings) -> dict[str, np.ndarray]:
    """What hooks give the clips' middle frames, at their own size; a clip without one is dropped."""
    used = {name: rule for name, rule in settings.filters.used() if isinstance(rule, HookFilter)}
    if not used:
        return {}
    frames = []
    for row in rows:
        middle_s = row["start_s"] + row["n_frames"] // 2 / row["fps"]
        how = {"rotation_deg": row["rotation_deg"], "decoder": row["decoder"]}
        try:
            picture = read_clip(row["uri"], start_s=middle_s, timeout_s=settings.decode_timeout_s, **how)
            frames.append(picture[0])
        except Rejected as rejected:
            row |= records.dropped(rejected.reason, rejected.detail)
    return {name: hooks.score(np.stack(frames), rule) for name, rule in used.items()} if frames else {}


def _filter(rows: list[_Row], series: Series, hooked: dict[str, np.ndarray], settings: ClipsSettings) -> None:
    """Adds their scores to the rows, and drops those beyond the limits."""
    if not rows:
        return
    spans = [cut.Span(row["start_s"], row["end_s"], row["n_frames"]) for row in rows]
    columns: dict[str, Any] = scores(series, spans, settings.filters, settings.fps) | hooked
    own = ("width", "height", "start_s", "end_s", "n_frames")
    verdicts = judge(columns | {name: [row[name] for row in rows] for name in own}, settings.filters)
    for i, (row, verdict) in enumerate(zip(rows, verdicts, strict=True)):
        row |= {name: float(values[i]) for name, values in columns.items() if np.isfinite(values[i])}
        row |= records.dropped(*verdict) if verdict else {}
