"""What one file is, and what its frames look like."""

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from vitascope import records, storage
from vitascope.clips.analysis.features import DTYPES, SIDE_PX, features
from vitascope.clips.dedup.hashing import BOXES, copy_hashes
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.clip import stream
from vitascope.media.clock import HOLD_S
from vitascope.media.fields import combing
from vitascope.media.geometry import Seen, Size
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.probe import probe

STRETCH_FRAMES = 64
"""Of the grid, decoded in one call: each has the time limit to itself."""

FRUITLESS = 2
"""Stretches in a row without a frame after which a file is left: the rest of it is not there."""

COMBING_EVERY = 4
"""Frames of the grid, of which one is looked at for combs: in all, it would take a tenth of a scan."""

DECORD_REMOTE_BYTES = 64 << 20
"""decord reads remote files whole, for every clip that another child reads; larger ones are PyAV's."""

PROBED_FIRST_BYTES = 64 << 20
"""Larger ones are fetched only once a few ranges of them have shown that they hold a video."""

_COPIES = "copy_hashes"
_DTYPES = DTYPES | {_COPIES: np.int64, "combing": np.float16, "sides": np.int32}
WIDTHS = dict.fromkeys(_DTYPES, 1) | {"bars": 4, _COPIES: len(BOXES), "sides": 2}
"""The series of a row, each with its numbers a frame."""

Series = dict[str, np.ndarray]


def scan(item: Item, settings: ClipsSettings) -> dict[str, Any]:
    """A row of records.CATALOG about the file.

    `again` if it may not have been the file's fault: the store failed, or decoding took too long or was
    killed, as on a busy machine.
    """
    origin = {"uri": item.uri, "name": item.name, "version": item.version, "size_bytes": item.size_bytes}
    facts: dict[str, Any] = {"content": None, "said_s": None}
    outcome: dict[str, Any] = records.OK
    again = False
    try:
        again = _look(item, settings, facts)
        outcome = records.OK | {"detail": facts.get("detail")}
    except Rejected as rejected:
        again = rejected.doubtful
        outcome = records.dropped(rejected.reason, rejected.detail)
    except OSError as error:
        again = True
        outcome = records.dropped(Reason.UNREADABLE, f"{type(error).__name__}: {error}")
    video_id = records.stable_id(item.name, facts["content"] or item.size_bytes)
    return {"video_id": video_id, "again": again} | origin | facts | outcome


def _look(item: Item, settings: ClipsSettings, facts: dict[str, Any]) -> bool:
    """Adds to `facts` as they are found, and says whether they are in doubt.

    Every byte of a remote file is fetched once, into a temporary folder of the node, which must have room for
    a file a worker.
    """
    if _is_away(item.uri) and item.size_bytes > PROBED_FIRST_BYTES:
        probe(item.uri, timeout_s=settings.decode_timeout_s)
    with _at_hand(item.uri) as (path, content):
        facts["content"] = content
        found = probe(path, timeout_s=settings.decode_timeout_s, decord=settings.decoder == "decord")
        facts |= dataclasses.asdict(found)
        if facts["decoder"] == "decord" and _is_away(item.uri) and item.size_bytes > DECORD_REMOTE_BYTES:
            facts["decoder"] = "pyav"
        series, doubtful = _series(path, facts, settings)
        last_s = (len(series["brightness"]) - 1) / settings.fps
        facts["duration_s"] = max(facts["duration_s"], last_s)
        said_s = facts["said_s"] or facts["duration_s"]
        if said_s - last_s > 1 / settings.fps + HOLD_S:
            facts["detail"] = f"it should last {said_s:.2f} s; its last good frame is at {last_s:.2f} s"
        facts |= _kept(series)
    return doubtful


def _is_away(uri: str) -> bool:
    return storage.is_remote(uri) or tars.locate(uri) is not None


@contextmanager
def _at_hand(uri: str) -> Iterator[tuple[str, str]]:
    """The file on a local disk, if it is not there already, and the BLAKE2b of its content."""
    away = _is_away(uri)
    digest = hashlib.blake2b(digest_size=16)
    with tars.open_file(uri) as source, tempfile.NamedTemporaryFile(prefix="vitascope-") as copy:
        while piece := source.read(8 << 20):
            digest.update(piece)
            if away:
                copy.write(piece)
        copy.flush()
        yield copy.name if away else uri, digest.hexdigest()


def _series(uri: str, facts: dict[str, Any], settings: ClipsSettings) -> tuple[Series, bool]:
    """The file's series (F, …), as far as its frames go; NaN, or 0 in hashes, if one is damaged.

    And whether a stretch of it took too long, or its process was killed.

    They may go on after the end that headers tell of, or stop before it.

    Raises:
        Rejected: DECODE_FAILED if no frame decodes.
    """
    moves = facts["kind"] == "video"
    how = {"uri": uri, "fps": settings.fps, "long_side": SIDE_PX, "decoder": facts["decoder"]}
    how["n_frames"] = STRETCH_FRAMES if moves else 1
    stretches: list[Series] = []
    fruitless, cause, ended, doubtful = 0, "no frame decodes", False, False
    for first in itertools.count(0, STRETCH_FRAMES if moves else 0):
        try:
            got = isolated(stretch, timeout_s=settings.decode_timeout_s, first=first, **how)
            ended = len(got["brightness"]) < STRETCH_FRAMES
        except (Rejected, ChildDied, MemoryError) as error:
            got, cause = _nothing(0), getattr(error, "detail", str(error))
            doubtful = doubtful or not isinstance(error, Rejected)
        fruitless = 0 if np.isfinite(got["brightness"]).any() else fruitless + 1
        stretches = [*stretches, _padded(got, STRETCH_FRAMES)] if moves else [got]
        if ended or fruitless == FRUITLESS:
            break
    series = {name: np.concatenate([s[name] for s in stretches]) for name in WIDTHS}
    good = np.flatnonzero(np.isfinite(series["brightness"]))
    if not len(good):
        raise Rejected(Reason.DECODE_FAILED, cause, doubtful=doubtful)
    last = int(good[-1])
    if last / settings.fps <= facts["duration_s"] + HOLD_S:
        last = min(last, int(facts["duration_s"] * settings.fps + 1e-6))
    return {name: values[: last + 1] for name, values in series.items()}, doubtful and moves


def stretch(*, uri: str, first: int, n_frames: int, **how: Any) -> Series:
    """The series of frames first <= k < first + n_frames, or of as many as there are; runs in the child."""
    before = max(first - 1, 0)
    frames = stream(uri, first=before, n_frames=n_frames + first - before, **how)
    return _in_runs([_looked_at(seen, number) for number, seen in enumerate(frames, before)], first - before)


class _Look(NamedTuple):
    """A frame as it is analysed, and what is known of it at its own size."""

    picture: np.ndarray
    sides: Size
    combing: float


def _looked_at(seen: Seen | None, number: int) -> _Look | None:
    if seen is None:
        return None
    combed = combing(seen.frame) if seen.frame and number % COMBING_EVERY == 0 else np.nan
    return _Look(np.ascontiguousarray(seen.views[0]), seen.size, combed)


def _in_runs(looks: list[_Look | None], skip: int) -> Series:
    """The series of the frames after the first `skip`; each run of good frames of one size begins anew."""
    series = _nothing(len(looks))
    end = 0
    for sides, group in itertools.groupby(looks, lambda look: look and look.sides):
        run = list(group)
        begin, end = end, end + len(run)
        if sides is None:
            continue
        pictures = [look.picture for look in run if look]
        series["sides"][begin:end] = sides
        series["combing"][begin:end] = [look.combing for look in run if look]
        series[_COPIES][begin:end] = [copy_hashes(picture) for picture in pictures]
        for name, values in features(np.stack(pictures)).items():
            series[name][begin:end] = values
    return {name: values[skip:] for name, values in series.items()}


def _nothing(n_frames: int) -> Series:
    shapes = {name: (n_frames, width) if width > 1 else (n_frames,) for name, width in WIDTHS.items()}
    return {
        name: np.full(shapes[name], 0 if np.issubdtype(dtype, np.integer) else np.nan, dtype)
        for name, dtype in _DTYPES.items()
    }


def _padded(series: Series, n_frames: int) -> Series:
    missing = _nothing(n_frames - len(series["brightness"]))
    return {name: np.concatenate([values, missing[name]]) for name, values in series.items()}


def _kept(series: Series) -> Series:
    """The series flat, for a row."""
    return {name: values.ravel() for name, values in series.items()}


def series_of(row: dict[str, Any]) -> Series:
    """The inverse: the series (F, …) of a catalog row."""
    flat = {name: np.asarray(row[name], dtype) for name, dtype in _DTYPES.items()}
    return {name: v.reshape(-1, WIDTHS[name]) if WIDTHS[name] > 1 else v for name, v in flat.items()}
