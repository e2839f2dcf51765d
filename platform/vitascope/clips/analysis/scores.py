"""A clip's scores, and what is dropped for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from vitascope.clips.analysis.cut import Span
from vitascope.clips.analysis.shots import change_beyond_motion, is_black
from vitascope.clips.filters import Filter, Filters, beyond
from vitascope.errors import Mistake
from vitascope.ledger import Reason
from vitascope.records import SCORES

STILL = 4.0  # of 255: H.264 (crf 28) changes a still picture's tiles by up to 3.4, motion one by 10 and more
_BLURRED = 0.1  # a clip is as sharp as its blurred tenth

Columns: TypeAlias = pa.Table | Mapping[str, ArrayLike]


def scores(
    series: Mapping[str, np.ndarray], spans: Sequence[Span], filters: Filters, fps: float
) -> dict[str, np.ndarray]:
    """The clips' scores, float32 (N,), of all filters in use that go by the `series` of `features` at `fps`.

    What a frame changes against the one before counts from a clip's second frame on; a clip of one frame has
    NaN there.
    """
    jumps = change_beyond_motion(series)
    rows = [_scores(series, jumps, round(span.start_s * fps), span.n_frames) for span in spans]
    wanted = [name for name, _ in filters.used() if name in SCORES]
    columns = {name: np.array([row[name] for row in rows], np.float32) for name in wanted}
    if "motion" in columns:
        columns["motion"] *= np.float32(fps)  # the series are per frame, thresholds per second
    return columns


def _scores(series: Mapping[str, np.ndarray], jumps: np.ndarray, first: int, n: int) -> dict[str, float]:
    clip = {name: values[first : first + n].astype(np.float32) for name, values in series.items()}
    steps = jumps[first + 1 : first + n]
    looked_at = clip["combing"][np.isfinite(clip["combing"])]
    return {
        "black_share": is_black(clip).mean(),
        "still_share": (clip["peak_change"][1:] <= STILL).mean() if n > 1 else np.nan,
        "contrast": clip["contrast"].mean(),
        "brightness": clip["brightness"].mean(),
        "saturation": clip["saturation"].mean(),
        "sharpness": np.quantile(clip["sharpness"], _BLURRED),
        "motion": clip["motion"][1:].mean() if n > 1 else np.nan,
        "max_change": steps.max() if n > 1 else np.nan,
        "combing": looked_at.mean() if len(looked_at) else np.nan,
    }


def judge(columns: Columns, filters: Filters) -> list[tuple[Reason, str] | None]:
    """Why each clip is dropped, or None: the reason of the first filter it fails, the detail of all.

    `columns` are a clips table's, or arrays (N,) by name: each score whose filter drops. A duration may come
    as start_s, end_s and n_frames. Null and NaN pass.

    Raises:
        Mistake: a score that is to drop clips was not computed.
    """
    n_clips = len(columns) if isinstance(columns, pa.Table) else len(np.asarray(next(iter(columns.values()))))
    reasons: list[Reason | None] = [None] * n_clips
    details: list[list[str]] = [[] for _ in range(n_clips)]
    for name, rule in filters.used():
        if rule.use == "drop":
            for i, detail in _failing(name, _column(columns, name), rule):
                reasons[i] = reasons[i] or Reason(f"filter_{name}")
                details[i].append(detail)
    return [(reason, "; ".join(d)) if reason else None for reason, d in zip(reasons, details, strict=True)]


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
