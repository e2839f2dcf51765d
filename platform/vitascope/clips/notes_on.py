"""Notes on choices of the stage that no table shows."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.clips.index.captions import CaptionTable, hint
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Status
from vitascope.wording import count, short

_MOST_OF_NAME = 80
_FAR = 2.0  # ratio of the held-out fraction to the requested one that is worth a note; also its inverse
_FEW = 200  # files; with fewer, chance alone may be that far off
_LEFT_S, _LEFT_FRACTION = 1.0, 0.01  # seconds in no clip that are worth a note, if both are exceeded


def passed(kinds: Mapping[str, int]) -> list[str]:
    """Skipped files and tar members, by kind."""
    some = ", ".join(f"{kind} {n:,}" for kind, n in sorted(kinds.items()) if n)
    return [f"passed over in the input: {some}"] if some else []


def table(uri: str, captions: CaptionTable) -> list[str]:
    """Names of a captions table that match no file, and files without a row in it."""
    if not captions.unused and not captions.without:
        return []
    n_used, n_files = captions.n_names - len(captions.unused), len(captions.without)
    note = f"{short(uri, _MOST_OF_NAME)}: {n_used:,} of {count(captions.n_names, 'name')} matched a file"
    if captions.unused:
        note += f", {len(captions.unused):,} did not (such as {_quoted(captions.unused[0])})"
    if captions.without:
        note += (
            f"; {count(n_files, 'file')} of the input without a row (such as {_quoted(captions.without[0])})"
        )
    how = hint(captions) if captions.unused and captions.without else ""
    return [f"{note}; {how}" if how else note]


def clips(videos: pa.Table, rows: pa.Table, settings: ClipsSettings) -> list[str]:
    """Held-out files, crops and unused footage."""
    good = rows.filter(pc.equal(rows["status"], str(Status.OK)))
    return [*_held_out(rows, good, settings), *_cropped(good), *_left_over(videos, rows, settings)]


def _held_out(rows: pa.Table, good: pa.Table, settings: ClipsSettings) -> list[str]:
    notes = []
    n_files = pc.count_distinct(good["name"]).as_py()
    n_held_out = pc.count_distinct(good.filter(pc.equal(good["split"], "val"))["name"]).as_py()
    by_name = [p for p in settings.val_names if _matches(p, rows["name"])]
    if settings.val_names and not by_name:
        notes.append("no file matches clips.val_names, so clips.val_share decides what is held out")
    share = n_held_out / n_files if n_files else 0.0
    asked = settings.val_share
    if by_name or not asked or not n_files or 1 / _FAR <= share / asked <= _FAR:
        return notes
    files = f"{n_held_out:,} of {count(n_files, 'file')} ({share:.1%})"
    what_to_do = "hold out files by clips.val_names, or change clips.val_share"
    why = "files are few" if n_files < _FEW else "by chance"
    return [*notes, f"held out: {files}, clips.val_share asks for {asked:.1%}; {why}; {what_to_do}"]


def _matches(pattern: str, names: pa.ChunkedArray) -> bool:
    """Whether a pattern of clips.val_names matches any of `names`."""
    return any(fnmatchcase(name, pattern) for name in pc.unique(names).to_pylist())


def _cropped(good: pa.Table) -> list[str]:
    areas = good["crop_width"].to_numpy() * good["crop_height"].to_numpy()
    n, least = int((areas < 1).sum()), float(areas.min(initial=1.0))
    if not n:
        return []
    what = f"{n:,} of {count(len(good), 'clip')} cropped to the picture within black bars (clips.letterbox)"
    return [f"{what}; the smallest keeps {least:.0%} of its frame"]


def _left_over(videos: pa.Table, rows: pa.Table, settings: ClipsSettings) -> list[str]:
    """Seconds of usable videos in no clip; not counted if clips overlap."""
    if settings.every_s:
        return []
    usable = pc.and_(pc.equal(videos["status"], str(Status.OK)), pc.equal(videos["kind"], "video"))
    footage = videos.filter(usable)
    whole = float(np.nansum(footage["duration_s"].to_numpy(zero_copy_only=False)))
    spans = rows.filter(pc.is_in(rows["video_id"], value_set=footage["video_id"].combine_chunks()))
    left = whole - float((spans["end_s"].to_numpy() - spans["start_s"].to_numpy()).sum())
    if left < _LEFT_S or left < _LEFT_FRACTION * whole:
        return []
    why = "rests shorter than clips.durations_s, transitions between shots"
    return [f"in no clip: {left:,.1f} s of {whole:,.1f} s of video ({left / whole:.1%}): {why}"]


def _quoted(name: str) -> str:
    return repr(short(name, _MOST_OF_NAME))
