"""Which clips the data page shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from vitascope.clips.filters import SCORES
from vitascope.ledger import Reason, Status
from vitascope.media.clip import CROP
from vitascope.report.dataset import Dataset, Ints, Row, counts, is_in, labels, row_of
from vitascope.report.spread import Example, examples, spaced
from vitascope.report.thumbnails import Wanted

FACTS = ("width", "height", "duration_s")
"""Filters that go by a fact of the clip and by no score."""

MOVING = tuple(name for name, score in SCORES.items() if score.moving)
"""Scores that a still picture does not show."""

_MOST_GROUPS, _EACH, _PAIRS = 15, 4, 6
"""With 9 examples a score and two limits' more, these keep a page below 200 pictures."""


@dataclass(frozen=True, eq=False)
class Group:
    """What was dropped for a reason: its rows in a table, `videos` or `clips`, of `whole` rows.

    stage: files, clips, captions or samples. A caption that was not given, or a sample that was not
    made, stands for its clip: row -1 if the clip is not in the table.
    """

    stage: str
    reason: str
    table: str
    rows: Ints
    details: pa.ChunkedArray
    whole: int

    @cached_property
    def shown(self) -> list[tuple[int, str]]:
        """Examples: rows, each with its detail."""
        known = np.flatnonzero(self.rows >= 0)
        return [(int(self.rows[i]), self.details[i].as_py()) for i in spaced(known, _EACH)]


@dataclass(frozen=True, eq=False)
class Chosen:
    """Clips by score; all drops by group and the groups with examples; duplicates with the kept clip."""

    scores: Mapping[str, list[Example]]
    groups: list[Group]
    shown: list[Group]
    duplicates: list[tuple[int, int]]


def choose(data: Dataset) -> Chosen:
    """The clips to show, the same every time."""
    filters = data.settings.clips.filters.used()
    scores = {name: examples(data.numbers(name), f.limits) for name, f in filters if name not in FACTS}
    groups = _groups(data)
    shown = [group for group in groups[:_MOST_GROUPS] if group.reason != Reason.DUPLICATE]
    copies = spaced(np.flatnonzero(data.kept_of >= 0), _PAIRS)
    return Chosen(scores, groups, shown, [(copy, int(data.kept_of[copy])) for copy in copies])


def _groups(data: Dataset) -> list[Group]:
    """All drops by stage and reason, the largest group first."""
    stages = (
        ("files", "videos", data.videos, np.arange(len(data.videos))),
        ("clips", "clips", data.clips, np.arange(len(data.clips))),
        ("captions", "clips", data.answers, data.rows_of(data.answers["clip_id"])),
        ("samples", "clips", data.drops, data.rows_of(data.drops["clip_id"])),
    )
    found = []
    for stage, name, table, rows in stages:
        whole = int(data.good.sum()) if stage == "samples" else len(table)
        dropped = np.flatnonzero(is_in(table, "status", Status.DROPPED))
        reasons, which = labels(table["reason"].take(pa.array(dropped)))
        for i, reason in enumerate(reasons):
            mine = dropped[which == i]
            found.append(Group(stage, reason, name, rows[mine], table["detail"].take(pa.array(mine)), whole))
    return sorted(found, key=lambda group: -len(group.rows))


def copied(data: Dataset, most: int = 8) -> dict[str, int]:
    """The files with the most dropped duplicates, and how many clips those are."""
    kept = data.kept_of[data.kept_of >= 0]
    return dict(list(counts(data.clips["name"].take(pa.array(kept))).items())[:most])


def wanted(data: Dataset, chosen: Chosen) -> dict[str, Wanted]:
    """The pictures to make, by `key`."""
    rows = {("clips", e.row, name in MOVING) for name, some in chosen.scores.items() for e in some}
    rows |= {(group.table, row, False) for group in chosen.shown for row, _ in group.shown}
    rows |= {("clips", row, False) for pair in chosen.duplicates for row in pair}
    found = {}
    for table, row, moving in sorted(rows):  # of two for a row, the one that moves comes last
        clip = row_of(data.clips, row) if table == "clips" else _as_clip(row_of(data.videos, row))
        if clip:
            found[key(table, row)] = Wanted(clip, moving)
    return found


def key(table: str, row: int) -> str:
    """Names a row of a table."""
    return f"{table}/{row}"


def _as_clip(video: Row) -> Row:
    """The middle of a file as a clip; empty if no decoder opens it."""
    if not video["decoder"] or not video["width"]:
        return {}
    middle_s = (video["duration_s"] or 0) / 2
    whole = dict(zip(CROP, (0.0, 0.0, 1.0, 1.0), strict=True))
    return {**video, **whole, "start_s": middle_s, "end_s": middle_s, "fps": 1.0, "n_frames": 1}
