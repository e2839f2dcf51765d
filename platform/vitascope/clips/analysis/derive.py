"""The clips of a file, from its catalog row."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vitascope import records
from vitascope.clips.analysis import cut, letterbox
from vitascope.clips.analysis.scores import judge, scores
from vitascope.clips.analysis.series import Series, of_row
from vitascope.clips.analysis.shots import shots
from vitascope.clips.dedup.joins import thin
from vitascope.clips.filters import HOOKS, SCORES
from vitascope.clips.index import captions
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Reason, Rejected, Status
from vitascope.media.geometry import Crop

_SHARED = ("content", "video_id", "uri", "name", "version", "kind", "decoder")
_Row = dict[str, Any]
Texts = tuple[dict[str, str], str]
"""A file's captions by field; and why there are none."""


def clips_of(video: _Row, settings: ClipsSettings) -> list[_Row]:
    """The rows of table.CLIPS of a row of series.CATALOG, with their scores; `split` is filled in later.

    Each also has the columns of twins.FOUND_BY. Only clips of damaged video are dropped here.
    """
    if video["status"] != Status.OK:
        return []
    series = of_row(video)
    found = list(_spans(video, series, settings))
    rows = [_row(video, span, settings) | outcome for span, outcome in found]
    good = [i for i, row in enumerate(rows) if row["status"] == Status.OK]
    scored = scores(series, [found[i][0] for i in good], settings.filters, settings.fps)
    bars = _bars(series) if settings.letterbox == "crop" else {}
    for place, i in enumerate(good):
        looks = _of_span(series, found[i][0], settings.fps)
        height, width = looks["sides"][0].tolist()
        crop = letterbox.letterbox(looks, bars[height, width]) if bars else Crop()
        rows[i] |= letterbox.columns(crop, width, height) | _compared(looks)
        rows[i] |= {k: float(values[place]) for k, values in scored.items() if np.isfinite(values[place])}
    return rows


def _spans(video: _Row, series: Series, settings: ClipsSettings) -> Iterator[tuple[cut.Span, _Row]]:
    """The spans of every shot; and those of damage, which are dropped. A change of size is a cut too."""
    lengths = (settings.fps, settings.durations_s, settings.every_s)
    sides = series["sides"]  # 0 of damaged frames
    edges = np.r_[0, np.flatnonzero(np.diff(sides, axis=0).any(axis=1)) + 1, len(sides)]
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if sides[begin].all():
            part = {name: values[begin:end] for name, values in series.items()}
            found = shots(part, settings.shots, settings.fps)
            moved = [(begin + first, begin + last) for first, last in found]
            yield from ((span, records.OK) for span in cut.spans(moved, *lengths))
        else:
            yield _lost(begin, end, settings.fps, f"{end - begin} of its frames are damaged")
    expected = cut.steps(video["said_s"] or video["duration_s"], settings.fps) + 1
    if expected - len(sides) > cut.steps(min(settings.durations_s), settings.fps):
        what = f"its frames end before {len(sides) / settings.fps:.2f} s"
        yield _lost(len(sides), expected, settings.fps, what)


def _bars(series: Series) -> dict[tuple[int, int], Crop]:
    """The letterbox of all frames of each size (height, width)."""
    sides = series["sides"]
    return {
        (height, width): letterbox.letterbox(
            {k: v[(sides == (height, width)).all(axis=1)] for k, v in series.items()}
        )
        for height, width in np.unique(sides, axis=0).tolist()
    }


def _lost(begin: int, end: int, fps: float, what: str) -> tuple[cut.Span, _Row]:
    span = cut.Span(begin / fps, (end - 1) / fps, end - begin)
    return span, records.dropped(Reason.DECODE_FAILED, what)


def _row(video: _Row, span: cut.Span, settings: ClipsSettings) -> _Row:
    clip_id = records.stable_id(video["video_id"], span.start_s, span.n_frames, settings.fps)
    shared = {key: video[key] for key in _SHARED} | letterbox.columns(Crop(), video["width"], video["height"])
    return shared | dataclasses.asdict(span) | {"clip_id": clip_id, "fps": settings.fps, "split": "train"}


def _of_span(series: Series, span: cut.Span, fps: float) -> Series:
    first = round(span.start_s * fps)
    return {name: values[first : first + span.n_frames] for name, values in series.items()}


def _compared(looks: Series) -> _Row:
    """What a clip's near twins are found by."""
    return {"looks": thin(looks["copy_hashes"], looks["contrast"] * np.float32(255)).ravel()}


def settle(rows: list[_Row], texts: Mapping[str, Texts], settings: ClipsSettings) -> None:
    """Gives good clips their captions, and drops those beyond the limits, or without one.

    `texts` are those of every file, by its name. What a filter drops is not asked for its caption.
    """
    rows = [row for row in rows if row["status"] == Status.OK]
    own = ("width", "height", "start_s", "end_s", "n_frames")
    names = [name for name, _ in settings.filters.used() if name in {*SCORES, *HOOKS}]
    columns = {name: np.array([row[name] for row in rows]) for name in own}
    columns |= {name: np.array([row.get(name, np.nan) for row in rows], np.float32) for name in names}
    for row, verdict in zip(rows, judge(columns, settings.filters), strict=True):
        if min(row["width"], row["height"]) < settings.min_side_px:
            within = f"{row['width']}x{row['height']} within its bars"
            row |= records.dropped(Reason.TOO_SMALL, f"{within}, clips.min_side_px is {settings.min_side_px}")
        elif verdict:
            row |= records.dropped(*verdict)
        else:
            row |= _caption(row["clip_id"], texts[row["name"]], settings)


def _caption(clip_id: str, texts: Texts, settings: ClipsSettings) -> _Row:
    found, why_none = texts
    found = {field: found[field] for field in settings.caption_fields if field in found}
    try:
        if not found:
            raise Rejected(Reason.NO_CAPTION, why_none)
        drawn = found[captions.draw(found, settings.caption_fields, clip_id)]
        return {"captions": found, "caption": drawn}
    except Rejected as rejected:
        return {"captions": found} | records.dropped(rejected.reason, rejected.detail)
