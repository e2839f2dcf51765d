"""Scores of clips, and which ones they drop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from vitascope.clips.analysis.cut import Span
from vitascope.clips.analysis.shots import change_beyond_motion
from vitascope.clips.filters import SCORES, Filter, Filters, beyond, reason
from vitascope.errors import Mistake

Columns: TypeAlias = pa.Table | Mapping[str, ArrayLike]


def scores(
    series: Mapping[str, np.ndarray], spans: Sequence[Span], filters: Filters, fps: float
) -> dict[str, np.ndarray]:
    """The scores of clips, float32 (N,), of all filters in use that are computed from `series` at `fps`.

    Changes from frame to frame count from the second frame of a clip on; a clip of one frame has NaN.
    """
    series = {**series, "jump": change_beyond_motion(series)}
    firsts = [(round(span.start_s * fps), span.n_frames) for span in spans]
    clips = [{k: v[first : first + n].astype(np.float32) for k, v in series.items()} for first, n in firsts]
    wanted = {name: SCORES[name] for name, _ in filters.used() if name in SCORES}
    columns = {
        name: np.array([score.of(clip) for clip in clips], np.float32) for name, score in wanted.items()
    }
    return {n: v * np.float32(fps) if wanted[n].per_second else v for n, v in columns.items()}


def judge(columns: Columns, filters: Filters) -> list[tuple[str, str] | None]:
    """Why each clip is dropped, or None: the reason of the first filter it fails, the details of all.

    `columns` is a clips table, or arrays (N,) by name, with every score whose filter drops; a duration may be
    given as start_s, end_s and n_frames. Null and NaN pass.

    Raises:
        Mistake: a filter drops by a score that was not computed.
    """
    n_clips = len(columns) if isinstance(columns, pa.Table) else len(np.asarray(next(iter(columns.values()))))
    reasons: list[str | None] = [None] * n_clips
    details: list[list[str]] = [[] for _ in range(n_clips)]
    for name, rule in filters.used():
        if rule.use == "drop":
            for i, detail in _failing(name, _column(columns, name), rule):
                reasons[i] = reasons[i] or reason(name)
                details[i].append(detail)
    return [(why, "; ".join(d)) if why else None for why, d in zip(reasons, details, strict=True)]


def _failing(name: str, values: np.ndarray, rule: Filter) -> Iterator[tuple[int, str]]:
    for key, limit in rule.limits.items():
        sign = "<" if key == "min" else ">"
        for i in np.flatnonzero(beyond(values, {key: limit})):
            yield int(i), f"{name} {values[i]:.5g} {sign} {limit:g} (clips.filters.{name}.{key})"


def _column(columns: Columns, name: str) -> np.ndarray:
    """A column as float32 (N,); null becomes NaN."""
    names = columns.column_names if isinstance(columns, pa.Table) else columns
    if name in names:
        column = columns[name]
        values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column
        return np.asarray(values, np.float32)
    if name == "duration_s":
        start_s, end_s, n_frames = (_column(columns, n) for n in ("start_s", "end_s", "n_frames"))
        return np.where(n_frames > 1, end_s - start_s, np.float32(np.nan))
    raise Mistake(
        f"clips.filters.{name} drops, but the table has no column {name}; compute it with "
        f'clips.filters.{name}.use = "score", or set it to "off"'
    )
