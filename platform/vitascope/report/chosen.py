"""Which clips the data page shows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.ledger import Reason, Status
from vitascope.media.clip import CROP
from vitascope.report.dataset import Dataset, Ints, is_in, labels
from vitascope.report.spread import Example, examples, limits_of, spaced

FACTS = ("width", "height", "duration_s")
"""Filters that go by a fact of the clip and by no score."""

MOVING = ("black_share", "still_share", "motion", "max_change")
"""Scores of time, which a still picture does not show."""

_MOST_GROUPS, _EACH, _PAIRS = 15, 4, 6
"""With 9 examples a score and two limits' more, these keep a page below 200 pictures."""

_TWIN = r"^(?s:the same bytes as (?P<same>.*)|duplicate of (?P<name>.*) at (?P<start_s>\S+) s, distance .*)$"


@dataclass(frozen=True, eq=False)
class Group:
    """What was dropped for a reason: its rows in a table, `videos` or `clips`, of `whole` rows.

    stage: files, clips, captions or samples. A caption that was not given, or a sample that was not
    made, stands for its clip.
    """

    stage: str
    reason: str
    table: str
    rows: Ints
    details: pa.ChunkedArray
    whole: int


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows of the clips table by score; groups of drops with rows to show; copies with what is kept."""

    scores: Mapping[str, list[Example]]
    drops: list[tuple[Group, list[int]]]
    twins: list[tuple[int, int]]


def choose(data: Dataset) -> Chosen:
    """The clips to show, the same every time."""
    filters = dict(data.settings.clips.filters.used())
    scores = {
        name: examples(data.numbers(name), limits_of(f)) for name, f in filters.items() if name not in FACTS
    }
    found = groups(data)
    drops = [
        (group, spaced(group.rows[group.rows >= 0], _EACH))
        for group in found[:_MOST_GROUPS]
        if group.reason != Reason.DUPLICATE
    ]
    copies = spaced(np.flatnonzero(is_in(data.clips, "reason", str(Reason.DUPLICATE))), _PAIRS)
    twins = [(copy, twin) for copy in copies if (twin := twin_of(data, copy)) >= 0]
    return Chosen(scores, drops, twins)


def groups(data: Dataset) -> list[Group]:
    """All drops by stage and reason, the largest group first."""
    in_clips = np.arange(len(data.clips))
    of_answers, of_drops = (data.rows_of(table["clip_id"]) for table in (data.answers, data.drops))
    stages = (
        ("files", "videos", data.videos, np.arange(len(data.videos))),
        ("clips", "clips", data.clips, in_clips),
        ("captions", "clips", data.answers, of_answers),
        ("samples", "clips", data.drops, of_drops),
    )
    found = []
    for stage, name, table, rows in stages:
        whole = int(data.good.sum()) if stage == "samples" else len(table)
        dropped = np.flatnonzero(is_in(table, "status", str(Status.DROPPED)))
        reasons, which = labels(table["reason"].take(pa.array(dropped)))
        for i, reason in enumerate(reasons):
            mine = dropped[which == i]
            details = table["detail"].take(pa.array(mine))
            found.append(Group(stage, reason, name, rows[mine], details, whole))
    return sorted(found, key=lambda group: -len(group.rows))


def twin_of(data: Dataset, row: int) -> int:
    """The clip that is kept in place of a duplicate; -1 if it is not in the table."""
    told = re.search(_TWIN, data.clips["detail"][row].as_py() or "")
    if not told:
        return -1
    rows = np.flatnonzero(np.asarray(pc.equal(data.clips["name"], told["same"] or told["name"])))
    start_s = data.numbers("start_s")
    away = np.abs(start_s[rows] - float(told["start_s"] or start_s[row]))
    return int(rows[away.argmin()]) if len(rows) else -1


def copied(data: Dataset, most: int = 8) -> dict[str, int]:
    """The files of which most copies were dropped, and how many clips those are."""
    details = data.clips["detail"].filter(pc.equal(data.clips["reason"], str(Reason.DUPLICATE)))
    told = pc.extract_regex(details.combine_chunks(), _TWIN)
    same, name = (pc.struct_field(told, key) for key in ("same", "name"))
    names, which = labels(pc.if_else(pc.equal(same, ""), name, same))
    return dict(zip(names[:most], np.bincount(which[which >= 0]).tolist(), strict=False))


def wanted(data: Dataset, chosen: Chosen) -> dict[str, tuple[dict[str, Any], bool]]:
    """The rows to make pictures of, by `key`, and whether a picture is to move."""
    found: dict[str, tuple[dict[str, Any], bool]] = {}

    def want(table: str, row: int, moving: bool = False) -> None:
        name = key(table, row)
        clip = _clip(data.clips, row) if table == "clips" else _as_clip(_clip(data.videos, row))
        if clip:
            found[name] = (clip, moving or found.get(name, (clip, False))[1])

    for name, some in chosen.scores.items():
        for example in some:
            want("clips", example.row, moving=name in MOVING)
    for group, rows in chosen.drops:
        for row in rows:
            want(group.table, row)
    for pair in chosen.twins:
        for row in pair:
            want("clips", row)
    return found


def key(table: str, row: int) -> str:
    """Names a row of a table."""
    return f"{table}/{row}"


def _clip(table: pa.Table, row: int) -> dict[str, Any]:
    found: dict[str, Any] = table.slice(row, 1).to_pylist()[0]
    return found


def _as_clip(video: dict[str, Any]) -> dict[str, Any]:
    """The middle of a file as a clip; empty if no decoder opens it."""
    if not video["decoder"] or not video["width"]:
        return {}
    middle_s = (video["duration_s"] or 0) / 2
    whole = dict(zip(CROP, (0.0, 0.0, 1.0, 1.0), strict=True))
    return video | whole | {"start_s": middle_s, "end_s": middle_s, "fps": 1.0, "n_frames": 1}
