"""The clips stage reports what it chose by itself."""

from typing import Any

import pyarrow as pa
import pytest

from vitascope import records
from vitascope.clips import notes_on
from vitascope.clips.index.captions import CaptionTable
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import CLIPS, VIDEOS

NOTHING = pa.table({})


def videos(n: int, duration_s: float = 10.0) -> pa.Table:
    rows = [{"video_id": f"v{i}", "uri": "u", "name": f"{i}.mp4", "kind": "video"} for i in range(n)]
    return pa.Table.from_pylist([row | records.OK | {"duration_s": duration_s} for row in rows], VIDEOS)


def clips(n: int, n_val: int = 0, **changes: Any) -> pa.Table:
    row = {"version": "1", "kind": "video", "fps": 8.0, "n_frames": 81, "width": 96, "height": 64}
    row |= {"start_s": 0.0, "end_s": 10.0, "rotation_deg": 0, "decoder": "pyav", "uri": "u"}
    row |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": 1.0, "crop_height": 1.0} | records.OK | changes
    own = [{"clip_id": f"c{i}", "video_id": f"v{i}", "name": f"{i}.mp4"} for i in range(n)]
    splits = [{"split": "val" if i < n_val else "train"} for i in range(n)]
    return pa.Table.from_pylist([row | a | b for a, b in zip(own, splits, strict=True)], CLIPS)


def said(*tables: pa.Table, **settings: Any) -> list[str]:
    return notes_on.clips(*tables, ClipsSettings(**settings))


def test_nothing_is_said_of_what_is_as_asked() -> None:
    assert said(videos(20), clips(20, n_val=1)) == []
    assert notes_on.passed({"hidden": 0}) == []
    assert notes_on.table("t.csv", CaptionTable(NOTHING, 3, [], [])) == []


def test_a_share_that_few_files_cannot_give_is_told_with_what_to_do() -> None:
    (note,) = said(videos(4), clips(4, n_val=1))
    assert note.startswith("held out: 1 of 4 files (25.0%), clips.val_share asks for 5.0%; files are few")
    assert "clips.val_names" in note
    assert said(videos(4), clips(4, n_val=1), val_names=["0.mp4"]) == []
    other, _ = said(videos(4), clips(4, n_val=1), val_names=["tower*"])
    assert other.startswith("no file matches clips.val_names")


def test_crops_and_what_lies_in_no_clip_are_told() -> None:
    (note,) = said(videos(20), clips(20, n_val=1, crop_top=0.25, crop_height=0.5))
    assert note.startswith("20 of 20 clips cropped")
    assert note.endswith("keeps 50% of its frame")
    (note,) = said(videos(20), clips(20, n_val=1, end_s=9.0))
    assert note.startswith("in no clip: 20.0 s of 200.0 s of video (10.0%)")
    assert said(videos(20), clips(20, n_val=1, end_s=9.0), every_s=5) == []


def test_what_is_passed_over_is_counted_by_kind() -> None:
    (note,) = notes_on.passed({"named pipe": 1, "hidden": 1200, "device": 0})
    assert note == "passed over in the input: hidden 1,200, named pipe 1"


@pytest.mark.parametrize(
    ("unused", "without", "ends"),
    [
        (["x" * 500], [], "2 of 3 names matched a file, 1 did not (such as 'xxx"),
        ([], ["b.mp4"], "3 of 3 names matched a file; 1 file of the input without a row (such as 'b.mp4')"),
        (["B.MP4"], ["b.mp4"], "they differ in case alone ('B.MP4', 'b.mp4')"),
    ],
)
def test_a_table_that_matches_in_part_is_told(unused: list[str], without: list[str], ends: str) -> None:
    (note,) = notes_on.table("t.csv", CaptionTable(NOTHING, 3, unused, without))
    assert ends in note
    assert len(note) < 300
