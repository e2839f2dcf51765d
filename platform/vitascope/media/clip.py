"""Frames of a clip, and of a whole source.

All decoding happens in a child process that its time limit kills, in PyAV unless `clips.decoder` asks for
decord: then decord reads clips at their own size, from files in which it agrees with PyAV, and PyAV the rest.
Measured on one core, 2 s clips (17 frames) of 720p H.264 with a key frame every 10 s: decord took 1.1 to 1.4
times PyAV's processor time at the clip's own size, and the same at 448 x 252, where its scaling is 41 dB from
an exact one and PyAV's 52. Stepping through a file, PyAV took as long or less at either size.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vitascope import storage
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.containers import words
from vitascope.media.geometry import Crop, Size, View
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.readers import READERS, NoDevice, Reader, Seen
from vitascope.stores.patience import Unavailable

SOURCE = ("uri", "version", "decoder")
"""Of table.CLIPS: what `read_views` knows a clip's file by, beside the times."""


def read_clip(
    uri: str, *, n_frames: int = 1, size: Size | None = None, crop: Crop | None = None, **where: Any
) -> np.ndarray:
    """A clip as one `View` has it: uint8 (F, H, W, 3); `where` and errors as of `read_views`."""
    return read_views(uri, [View(n_frames, size, crop or Crop())], **where)[0]


def read_views(
    uri: str,
    views: Sequence[View],
    *,
    start_s: float = 0.0,
    fps: float = 1.0,
    decoder: str,
    version: str | None = None,
    timeout_s: float = 60.0,
) -> list[np.ndarray]:
    """The frames on screen at start_s + i/fps, as each of `views` has them: uint8 (F, H, W, 3), BT.709 RGB.

    They are upright, mirrored if the file says so, deinterlaced if combed, and over white if transparent.
    They are decoded once, whatever the number of views.

    Args:
        uri: a local path, s3:// or gs:// URI, or a tar's member (`tars`).
        decoder: decord, pyav or pillow, from `probe`, or nvdec. If decord fails, PyAV is tried.
        version: the file's when it was scanned; without one, it is taken as it is now.

    Raises:
        Rejected: DECODE_FAILED, also if decoding takes more processor time than `timeout_s`; SOURCE_CHANGED.
        NoDevice: nvdec, and no GPU.
        Unavailable: the store does not answer.
    """
    what: dict[str, Any] = {"uri": uri, "version": version}
    what |= {"start_s": start_s, "fps": fps}
    order = sorted(range(len(views)), key=lambda i: -views[i].n_frames)
    what["views"] = [views[i] for i in order]
    for attempt in (decoder, "pyav") if decoder == "decord" else (decoder,):
        try:
            frames = isolated(_read, timeout_s=timeout_s, decoder=attempt, **what)
            return [frames[order.index(i)] for i in range(len(views))]
        except ChildDied as death:
            cause = str(death)
    raise Rejected(Reason.DECODE_FAILED, cause) from None


def stream(
    uri: str,
    *,
    fps: float,
    first: int,
    n_frames: int,
    long_side: int | None = None,
    decoder: str,
) -> Iterator[Seen | None]:
    """The source's frames at k/fps, first <= k < first + n_frames, None if damaged.

    Each has one view: the whole of it, `shrunk` to `long_side` if that is given.

    For functions that `isolated` runs, so that what they make of the frames leaves the child and not the
    frames; one is held at a time. The source stays open: the stretch that follows is decoded on from
    there, without a seek. Where the source ends, so do the frames; the last one stands `readers.HOLD_S`
    longer than it says. Arguments and errors as of `read_views`.
    """
    times_s = (first + np.arange(n_frames)) / fps
    reader = "pyav" if decoder == "decord" else decoder
    views = [View(n_frames, long_side=long_side)]
    yield from _pictures(reader, times_s, uri=uri, version=None, views=views)


def _read(*, decoder: str, start_s: float, fps: float, views: list[View], **source: Any) -> list[np.ndarray]:
    """The frames of all views, of which the longest come first. Runs in the child."""
    times_s = start_s + np.arange(views[0].n_frames) / fps
    if decoder == "decord":
        decoder = "pyav"
        if all(view.is_plain for view in views):
            with contextlib.suppress(Exception):  # PyAV decides whether the clip is bad, and says why
                return _stacked(_pictures("decord", times_s, views=views, **source), times_s, views)
    return _stacked(_pictures(decoder, times_s, views=views, **source), times_s, views)


def _stacked(pictures: Iterator[Seen | None], times_s: np.ndarray, views: list[View]) -> list[np.ndarray]:
    """Each view's frames (F H W 3); Rejected if one is missing."""
    frames: list[np.ndarray] = []
    n_good, size = 0, None
    for seen in pictures:
        if seen is None:
            raise Rejected(Reason.DECODE_FAILED, f"its frame at {times_s[n_good]:.2f} s is damaged")
        size = size or seen.size
        if seen.size != size:
            raise Rejected(Reason.DECODE_FAILED, f"its frames change size at {times_s[n_good]:.2f} s")
        if not frames:
            frames = [
                np.empty((view.n_frames, *picture.shape), np.uint8)
                for view, picture in zip(views, seen.views, strict=True)
            ]
        for clip, picture in zip(frames, seen.views, strict=False):
            if n_good < len(clip):
                clip[n_good] = picture
        n_good += 1
    if n_good < len(times_s):
        missing = f"frames end before {times_s[n_good]:.2f} s, the clip goes on to {times_s[-1]:.2f} s"
        raise Rejected(Reason.DECODE_FAILED, missing)
    return frames


def _pictures(
    decoder: str, times_s: np.ndarray, *, uri: str, version: str | None, views: list[View]
) -> Iterator[Seen | None]:
    """The reader's pictures; all failures that are the file's become Rejected."""
    try:
        # s3fs reads on in the version that it opened, or not at all; others may be written over.
        known = version if version and uri.startswith("s3://") else _same(uri, version)
        yield from _reader(uri, decoder, known).pictures(times_s, views)
    except Exception as error:
        _reader.cache_clear()  # its state is not known any more
        if isinstance(error, Rejected | NoDevice | Unavailable):
            raise
        with contextlib.suppress(FileNotFoundError):
            _same(uri, version)
        raise Rejected(Reason.DECODE_FAILED, words(error)) from None


@functools.lru_cache(maxsize=1)
def _reader(uri: str, decoder: str, version: str) -> Reader:
    """The reader of a source, kept open since clips of one source are asked for one after the other."""
    _same(uri, version)
    return READERS[decoder](uri)


def _same(uri: str, version: str | None) -> str:
    """The version of a file, or of its tar, which has to be `version` if that is known."""
    member = tars.locate(uri)
    there = storage.version(member.tar if member else uri)
    if version not in (None, there):
        raise Rejected(Reason.SOURCE_CHANGED, f"scanned as {version}, now {there}; run vitascope clips again")
    return there
