"""Probe a file and compute the series of its frames."""

import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from vitascope import records, storage
from vitascope.clips.analysis.features import SIDE_PX, features
from vitascope.clips.analysis.series import Series, columns, joined, missing
from vitascope.clips.dedup.hashing import copy_hashes
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.table import Row
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.clip import Clip
from vitascope.media.clock import HOLD_S
from vitascope.media.fields import combing
from vitascope.media.geometry import Seen, Size
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.probe import probe

STRETCH_FRAMES = 64
"""Frames of the grid decoded in one call, with the time limit for each call."""

FRUITLESS = 2
"""Consecutive stretches without a frame after which scanning ends: the rest of the file is missing."""

COMBING_EVERY = 4
"""One in so many frames is checked for combing; checking all would take a tenth of a scan."""

DECORD_REMOTE_BYTES = 64 << 20
"""Larger remote files are read by PyAV: decord downloads the whole file in every child process."""

PROBED_FIRST_BYTES = 64 << 20
"""Larger remote files are probed by range reads before they are downloaded."""


def scan(item: Item, settings: ClipsSettings) -> Row:
    """The row of series.CATALOG about a file.

    `again` is true if a failure may not be the file's fault: the store failed, or decoding took too long or
    was killed, as on a busy machine.
    """
    origin = {"uri": item.uri, "name": item.name, "version": item.version, "size_bytes": item.size_bytes}
    facts: Row = {"content": None, "said_s": None}
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


def _look(item: Item, settings: ClipsSettings, facts: Row) -> bool:
    """Adds to `facts` as they are determined; returns whether they are doubtful.

    Every byte of a remote file is fetched once, into a temporary folder of the node, which needs room for one
    file for each worker.
    """
    if _is_away(item.uri) and item.size_bytes > PROBED_FIRST_BYTES:
        probe(item.uri, timeout_s=settings.decode_timeout_s)
    with _local_copy(item.uri) as (path, content):
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
        facts |= columns(series)
    return doubtful


def _is_away(uri: str) -> bool:
    return storage.is_remote(uri) or tars.locate(uri) is not None


@contextmanager
def _local_copy(uri: str) -> Iterator[tuple[str, str]]:
    """A local path of the file, copied if it is remote, and the BLAKE2b hash of its content."""
    away = _is_away(uri)
    digest = hashlib.blake2b(digest_size=16)
    with tars.open_file(uri) as source, tempfile.NamedTemporaryFile(prefix="vitascope-") as copy:
        while piece := source.read(8 << 20):
            digest.update(piece)
            if away:
                copy.write(piece)
        copy.flush()
        yield copy.name if away else uri, digest.hexdigest()


def _series(uri: str, facts: Row, settings: ClipsSettings) -> tuple[Series, bool]:
    """The series (F, …) of a file up to its last frame; NaN, or 0 in hashes, for damaged frames.

    Also whether a stretch took too long or its process was killed. Frames may continue after the end given by
    the headers, or stop before it.

    Raises:
        Rejected: DECODE_FAILED if no frame decodes.
    """
    moves = facts["kind"] == "video"
    how = {"clip": Clip(uri, facts["decoder"], fps=settings.fps), "n_frames": STRETCH_FRAMES if moves else 1}
    stretches: list[Series] = []
    fruitless, cause, ended, doubtful = 0, "no frame decodes", False, False
    for first in itertools.count(0, STRETCH_FRAMES if moves else 0):
        try:
            got = isolated(stretch, timeout_s=settings.decode_timeout_s, first=first, **how)
            ended = len(got["brightness"]) < STRETCH_FRAMES
        except (Rejected, ChildDied, MemoryError) as error:
            got, cause = missing(0), getattr(error, "detail", str(error))
            doubtful = doubtful or not isinstance(error, Rejected)
        fruitless = 0 if np.isfinite(got["brightness"]).any() else fruitless + 1
        stretches = [*stretches, got, missing(STRETCH_FRAMES - len(got["brightness"]))] if moves else [got]
        if ended or fruitless == FRUITLESS:
            break
    series = joined(stretches)
    good = np.flatnonzero(np.isfinite(series["brightness"]))
    if not len(good):
        raise Rejected(Reason.DECODE_FAILED, cause, doubtful=doubtful)
    last = int(good[-1])
    if last / settings.fps <= facts["duration_s"] + HOLD_S:
        last = min(last, int(facts["duration_s"] * settings.fps + 1e-6))
    return {name: values[: last + 1] for name, values in series.items()}, doubtful and moves


def stretch(*, clip: Clip, first: int, n_frames: int) -> Series:
    """The series of frames first <= k < first + n_frames, as far as they exist; runs in the child."""
    before = max(first - 1, 0)
    frames = clip.stream(before, n_frames + first - before, long_side=SIDE_PX)
    return _in_runs([_looked_at(seen, number) for number, seen in enumerate(frames, before)], first - before)


class _Look(NamedTuple):
    """A frame at the size of the analysis, and facts about it at its own size."""

    picture: np.ndarray
    sides: Size
    combing: float


def _looked_at(seen: Seen | None, number: int) -> _Look | None:
    if seen is None:
        return None
    combed = combing(seen.frame) if seen.frame and number % COMBING_EVERY == 0 else np.nan
    return _Look(np.ascontiguousarray(seen.views[0]), seen.size, combed)


def _in_runs(looks: list[_Look | None], skip: int) -> Series:
    """The series of the frames after the first `skip`, computed by runs of good frames of one size."""
    series = missing(len(looks))
    end = 0
    for sides, group in itertools.groupby(looks, lambda look: look and look.sides):
        run = list(group)
        begin, end = end, end + len(run)
        if sides is None:
            continue
        pictures = [look.picture for look in run if look]
        series["sides"][begin:end] = sides
        series["combing"][begin:end] = [look.combing for look in run if look]
        series["copy_hashes"][begin:end] = [copy_hashes(picture) for picture in pictures]
        for name, values in features(np.stack(pictures)).items():
            series[name][begin:end] = values
    return {name: values[skip:] for name, values in series.items()}
