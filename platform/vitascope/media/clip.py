"""A clip: which frames of a source, and how they are read.

All decoding happens in a child process that its time limit kills, in PyAV unless `clips.decoder` asks for
decord: then decord reads clips at their own size, from files in which it agrees with PyAV, and PyAV the rest.
Measured on one core, 2 s clips (17 frames) of 720p H.264 with a key frame every 10 s: decord took 1.1 to 1.4
times PyAV's processor time at the clip's own size, and the same at 448 x 252, where its scaling is 41 dB from
an exact one and PyAV's 52. Stepping through a file, PyAV took as long or less at either size.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitascope import storage
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.containers import words
from vitascope.media.geometry import WHOLE, Crop, Seen, Size, View
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.readers import READERS, NoDevice, Reader
from vitascope.stores.patience import Unavailable

CROP = ("crop_left", "crop_top", "crop_width", "crop_height")
COLUMNS = ("uri", "version", "decoder", "start_s", "fps", "n_frames", *CROP)
"""The columns of the clip table that `Clip.of_row` reads."""


@dataclass(frozen=True)
class Clip:
    """Frames of a video, or an image: those on screen at start_s, start_s + 1/fps, …, `n_frames` in all.

    Frames are read as uint8 (F, H, W, 3), BT.709 RGB: upright, mirrored if the file says so, deinterlaced if
    combed, and over white if transparent.

    Args:
        uri: a local path, an s3:// or gs:// URI, or a tar's member (`tars`).
        decoder: decord, pyav or pillow, as `probe` says, or nvdec. If decord fails, PyAV is tried.
        crop: the part of the upright frame that counts, without black bars.
        version: the file's when it was scanned; None reads the file as it is.

    Raises:
        ValueError: a time, a rate or a number of frames that no clip can have, or an unknown decoder.
    """

    uri: str
    decoder: str
    start_s: float = 0.0
    fps: float = 1.0
    n_frames: int = 1
    crop: Crop = WHOLE
    version: str | None = None

    def __post_init__(self) -> None:
        if not (self.start_s >= 0 and math.isfinite(self.start_s) and self.n_frames >= 1):
            raise ValueError(f"a clip begins at 0 s or later and has 1 frame or more, got {self}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"the frame rate of a clip is above 0, got {self}")
        if self.decoder not in READERS:
            raise ValueError(f"the decoder of a clip is one of {', '.join(READERS)}, got {self}")

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Clip":
        """The clip that a row of the clip table (clips.table.CLIPS) describes; it needs COLUMNS only."""
        own = {name: row[name] for name in COLUMNS if name not in CROP}
        return cls(**own, crop=Crop(*(row[name] for name in CROP)))

    @property
    def end_s(self) -> float:
        """When its last frame is on screen."""
        return self.start_s + (self.n_frames - 1) / self.fps

    def sampled(self, n: int) -> "Clip":
        """The clip of `n` of its frames, at even distances from the first to the last; one is the middle one.

        A clip of `n` frames or fewer keeps them all.
        """
        last = self.n_frames - 1
        if n == 1:
            return replace(self, start_s=self.start_s + (last + 1) // 2 / self.fps, n_frames=1)
        if n > last:
            return self
        return replace(self, fps=self.fps * (n - 1) / last, n_frames=n)

    def frames(
        self, n: int | None = None, size: Size | int | None = None, *, timeout_s: float = 60.0
    ) -> np.ndarray:
        """All its frames, or `n` of them (`sampled`): uint8 (F, H, W, 3).

        Args:
            size: the crop is scaled to cover this (height, width) and cut around its centre; a number is the
                longest side that the crop, made smaller, may have; None keeps the size as displayed.

        Raises: as `views`.
        """
        clip = self if n is None else self.sampled(n)
        height_width, long_side = (None, size) if isinstance(size, int) else (size, None)
        view = View(clip.n_frames, height_width, self.crop, long_side)
        return clip._views([view], timeout_s, self.end_s)[0]

    def views(self, views: Sequence[View], *, timeout_s: float = 60.0) -> list[np.ndarray]:
        """The clip's first frames as each of `views` has them: uint8 (F, H, W, 3). They are decoded once.

        A view has a number of frames and a part of the picture of its own.

        Raises:
            Rejected: DECODE_FAILED, also if decoding takes more processor time than `timeout_s`;
                SOURCE_CHANGED.
            NoDevice: nvdec, and no GPU.
            Unavailable: the store does not answer.
        """
        return self._views(views, timeout_s, self.end_s)

    def _views(self, views: Sequence[View], timeout_s: float, until_s: float) -> list[np.ndarray]:
        """`views`; `until_s` is the end of the clip of which this one is a sample."""
        order = sorted(range(len(views)), key=lambda i: -views[i].n_frames)
        longest_first = [views[i] for i in order]
        for decoder in ("decord", "pyav") if self.decoder == "decord" else (self.decoder,):
            try:
                clip = replace(self, decoder=decoder)
                frames = isolated(_read, timeout_s=timeout_s, clip=clip, views=longest_first, until_s=until_s)
                return [frames[order.index(i)] for i in range(len(views))]
            except ChildDied as death:
                cause = str(death)
        raise Rejected(Reason.DECODE_FAILED, cause) from None

    def stream(self, first: int, n_frames: int, *, long_side: int | None = None) -> Iterator[Seen | None]:
        """Its source's frames at start_s + k/fps, first <= k < first + n_frames, None if damaged.

        Each has one view: the whole frame, `shrunk` to `long_side` if that is given.

        For functions that `isolated` runs: their results leave the child, not the frames, of which one is
        held at a time. The source stays open, so that the stretch that follows is decoded without a seek. If
        the source ends before, so do the frames; the last one stands `clock.HOLD_S` longer than its duration.
        Errors as of `views`.
        """
        clip = replace(self, decoder="pyav") if self.decoder == "decord" else self
        times_s = self.start_s + (first + np.arange(n_frames)) / self.fps
        yield from _pictures(clip, times_s, [View(n_frames, long_side=long_side)])


def _read(*, clip: Clip, views: list[View], until_s: float) -> list[np.ndarray]:
    """The frames of all views, of which the longest come first. Runs in the child."""
    times_s = clip.start_s + np.arange(views[0].n_frames) / clip.fps
    if clip.decoder == "decord":
        if all(view.is_plain for view in views):
            with contextlib.suppress(Exception):  # PyAV decides whether the clip is bad, and says why
                return _stacked(_pictures(clip, times_s, views, until_s), times_s, views)
        clip = replace(clip, decoder="pyav")
    return _stacked(_pictures(clip, times_s, views, until_s), times_s, views)


def _stacked(pictures: Iterator[Seen | None], times_s: np.ndarray, views: list[View]) -> list[np.ndarray]:
    """Each view's frames (F H W 3); Rejected if one is damaged, or has another size."""
    frames: list[np.ndarray] = []
    size = None
    for n_good, seen in enumerate(pictures):
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
        for view_frames, picture in zip(frames, seen.views, strict=False):
            if n_good < len(view_frames):
                view_frames[n_good] = picture
    return frames


def _pictures(
    clip: Clip, times_s: np.ndarray, views: list[View], until_s: float | None = None
) -> Iterator[Seen | None]:
    """The reader's pictures; all failures that are the file's become Rejected.

    So does an end before the last of these times, unless `until_s`, the clip's own end, is None.
    """
    uri, version, n_read = clip.uri, clip.version, 0
    try:
        # s3fs reads on in the version that it opened, or not at all; others may be written over.
        known = version if version and uri.startswith("s3://") else _same(uri, version)
        reader = _reader(uri, clip.decoder, known)
        for seen in reader.pictures(times_s, views):
            n_read += 1
            yield seen
    except Exception as error:
        _reader.cache_clear()  # its state is not known any more
        if isinstance(error, Rejected | NoDevice | Unavailable):
            raise
        with contextlib.suppress(FileNotFoundError):
            _same(uri, version)
        raise Rejected(Reason.DECODE_FAILED, words(error)) from None
    if until_s is not None and n_read < len(times_s):
        missing = f"frames end at {reader.end_s:.2f} s, the clip goes on to {until_s:.2f} s"
        raise Rejected(Reason.DECODE_FAILED, missing)


@functools.lru_cache(maxsize=1)
def _reader(uri: str, decoder: str, version: str) -> Reader:
    """The reader of a source, kept open since clips of one source are asked for one after the other."""
    _same(uri, version)
    return READERS[decoder](uri)


def _same(uri: str, version: str | None) -> str:
    """The version of a file, or of its tar, which has to be `version` if that is known."""
    member = tars.locate(uri)
    current = storage.version(member.tar if member else uri)
    if version not in (None, current):
        raise Rejected(
            Reason.SOURCE_CHANGED, f"scanned as {version}, now {current}; run vitascope clips again"
        )
    return current
