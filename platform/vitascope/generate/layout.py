"""Which frames of an output come from its media.

A model makes whole latent frames: the first is one frame, each later one is `time_stride` frames. A latent
frame can be a conditioning frame only as a whole, so that stretches of video are cut to whole latent frames,
and a picture is shown for as long as one lasts, unless it is the very first frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitascope.encode.buckets import Patching
from vitascope.generate.request import Keep, Mode, Request
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize

N_TIED = 2
"""Latent frames that both ends of a loop have in common: with one, motion may change abruptly there."""

_PLENTY = 10**9


@dataclass(frozen=True)
class Piece:
    """`n_frames` frames of one of a request's media, and their positions among the frames that are made.

    media: its name in `Request.media`. The first of the frames is number `first` of the media at the
    request's fps, each later one `step` after the one before. Frame i is at position at + every * i, and at
    the hold - 1 positions before it.
    """

    media: str
    n_frames: int = 1
    at: int = 0
    first: int = 0
    step: int = 1
    every: int = 1
    hold: int = 1


@dataclass(frozen=True)
class Layout:
    """The frames that a request's model makes, those of them that are shown, and those that are media's.

    made: their size; `shown`: the positions of the output's frames. is_kept: whether the pieces are
    conditioning frames; if not, they are made anew. n_tied: the last latent frames that are the same as those
    after the first one.
    """

    made: VideoSize
    time_stride: int
    shown: Sequence[int]
    pieces: tuple[Piece, ...] = ()
    is_kept: bool = True
    n_tied: int = 0

    @property
    def owner(self) -> np.ndarray:
        """(F,) int64: for each frame that is made the index of the piece that it belongs to; -1 for none."""
        return self._of_frames()[0]

    @property
    def source(self) -> np.ndarray:
        """(F,) int64: for each frame that is made its number among the frames of all pieces; -1 for none."""
        return self._of_frames()[1]

    @property
    def nearest(self) -> np.ndarray:
        """(F,) int64: as `source`, with the nearest in time for the others."""
        source = self.source
        filled = np.flatnonzero(source >= 0)
        after = np.searchsorted(filled, np.arange(len(source))).clip(max=len(filled) - 1)
        before = (after - 1).clip(min=0)
        far = [np.abs(filled[side] - np.arange(len(source))) for side in (before, after)]
        return source[filled[np.where(far[0] <= far[1], before, after)]]

    @property
    def given(self) -> np.ndarray:
        """(T,) bool: the latent frames of which all frames that are shown are conditioning frames."""
        is_media = (self.source >= 0) & self.is_kept
        is_shown = np.zeros(self.made.n_frames, bool)
        is_shown[list(self.shown)] = True
        whole = self._latent(is_media | ~is_shown).all(axis=1)
        return np.asarray(whole & self._latent(is_media).any(axis=1))

    @property
    def tied(self) -> np.ndarray | None:
        """(T,) int64: the latent frame that each is the same as; None if all are different."""
        if not self.n_tied:
            return None
        index = np.arange(len(self.given))
        index[-self.n_tied :] = np.arange(1, 1 + self.n_tied)
        return index

    @property
    def in_output(self) -> np.ndarray:
        """(N,) int64: for each of the output's frames its piece, if it is a conditioning frame; else -1."""
        return self.owner[list(self.shown)] if self.is_kept else np.full(len(self.shown), -1)

    def _latent(self, of_frames: np.ndarray) -> np.ndarray:
        """(F,) values as (T, time_stride), the first one repeated."""
        return np.concatenate([of_frames[:1].repeat(self.time_stride - 1), of_frames]).reshape(
            -1, self.time_stride
        )

    def _of_frames(self) -> tuple[np.ndarray, np.ndarray]:
        owner, source = np.full((2, self.made.n_frames), -1)
        n_before = 0
        for number, piece in enumerate(self.pieces):
            for i in range(piece.n_frames):
                end = piece.at + piece.every * i + 1
                owner[max(0, end - piece.hold) : end] = number
                source[max(0, end - piece.hold) : end] = n_before + i
            n_before += piece.n_frames
        return owner, source


def layout(request: Request, patching: Patching, available: Mapping[str, int] | None = None) -> Layout:
    """The layout of a request whose media hold so many frames at its fps; by default as many as it needs.

    When extending, as much of the media as available is used, up to half of the latent frames; when joining,
    up to a third at either end.

    Raises:
        Rejected: INVALID_REQUEST if nothing is left to be made, or nothing can be kept; TOO_SHORT if one of
            the media is too short.
    """
    return _PLANS[request.mode](_Asked(request, patching, available))


@dataclass(frozen=True)
class _Asked:
    """What a layout follows from."""

    request: Request
    patching: Patching
    available: Mapping[str, int] | None

    @property
    def stride(self) -> int:
        return self.patching.strides.time

    @property
    def n_frames(self) -> int:
        return self.request.size.n_frames

    @property
    def n_latent(self) -> int:
        """The latent frames that hold the output."""
        return 1 + -(-(self.n_frames - 1) // self.stride)

    def n_available(self, media: str) -> int:
        return _PLENTY if self.available is None else self.available[media]

    def of(self, *pieces: Piece, n_latent: int | None = None, shown: Sequence[int] = ()) -> Layout:
        """So many latent frames, by default those of the output, which is their beginning by default."""
        n_frames = 1 + self.stride * ((n_latent or self.n_latent) - 1)
        made = self.patching.covering(replace(self.request.size, n_frames=n_frames))
        return Layout(made, self.stride, shown or range(self.n_frames), pieces)

    def check(self, media: str, n_needed: int, use: str) -> None:
        """Raises Rejected (TOO_SHORT) if a video has fewer frames."""
        if self.n_available(media) < n_needed:
            raise Rejected(
                Reason.TOO_SHORT,
                f"mode {self.request.mode} {use} at least {n_needed} frames of {media!r}, which has "
                f"{self.n_available(media)} at {self.request.fps:g} fps; give a longer one, or ask for less",
            )

    def beginning(self, media: str, most_latent: int) -> Piece:
        """The end of a video, as the beginning of the output."""
        self.check(media, 1, "begins with")
        n = 1 + self.stride * min(most_latent - 1, (self.n_available(media) - 1) // self.stride)
        return Piece(media, n, first=self.n_available(media) - n)

    def end(self, media: str, most_latent: int) -> Piece:
        """The beginning of a video, as the end of the output."""
        self.check(media, self.stride, "ends with")
        n = self.stride * min(most_latent, self.n_available(media) // self.stride)
        return Piece(media, n, at=1 + self.stride * (self.n_latent - 1) - n)

    def picture(self, media: str, latent: int) -> Piece:
        """A picture, for as long as a latent frame lasts."""
        return Piece(media, at=self.stride * latent, hold=self.stride if latent else 1)


def _plain(asked: _Asked) -> Layout:
    return asked.of()


def _from_picture(asked: _Asked) -> Layout:
    return asked.of(asked.picture("image", 0))


def _forward(asked: _Asked) -> Layout:
    return asked.of(asked.beginning("video", asked.n_latent // 2))


def _backward(asked: _Asked) -> Layout:
    """Spare frames are cut from the start, so that conditioning frames at the end stay whole."""
    spare = 1 + asked.stride * (asked.n_latent - 1) - asked.n_frames
    piece = asked.end("video", asked.n_latent // 2)
    return asked.of(piece, shown=range(spare, spare + asked.n_frames))


def _join(asked: _Asked) -> Layout:
    third = asked.n_latent // 3
    return asked.of(asked.beginning("video", third), asked.end("video_after", third))


def _first_last(asked: _Asked) -> Layout:
    return asked.of(asked.picture("image", 0), asked.picture("image_last", asked.n_latent - 1))


def _loop(asked: _Asked) -> Layout:
    """A loop from a picture comes back to it after its last frame. Any other repeats its beginning.

    The repeated latent frames are the same at both ends in every step, and are shown at the end only: there,
    they have been made, and are decoded, after what leads to them.
    """
    if asked.request.image:
        last = 1 + (asked.n_frames - 1) // asked.stride
        return asked.of(asked.picture("image", 0), asked.picture("image", last), n_latent=last + 1)
    n_latent, start = 1 + asked.n_frames // asked.stride + N_TIED, 1 + asked.stride * N_TIED
    plan = asked.of(n_latent=n_latent, shown=range(start, start + asked.n_frames))
    return replace(plan, n_tied=N_TIED)


def _infill(asked: _Asked) -> Layout:
    taken: dict[int, int] = {}
    pieces = []
    for number, keep in enumerate(asked.request.keep):
        latents, piece = _kept(asked, number, keep)
        for latent in latents:
            if latent in taken:
                raise _invalid(
                    f"keep[{taken[latent]}] and keep[{number}] both need the frames "
                    f"{_frames_of(latent, asked.stride)}, which are made together; keep one, or move one"
                )
            taken[latent] = number
        pieces.append(piece)
    if len(taken) == asked.n_latent:
        raise _invalid("all frames are kept, and none is left to be made; keep fewer")
    return asked.of(*pieces)


def _kept(asked: _Asked, number: int, keep: Keep) -> tuple[Sequence[int], Piece]:
    """The latent frames of a part to keep, and its piece: for a stretch, those wholly within it."""
    stride, fps, n = asked.stride, asked.request.fps, asked.n_frames
    begin = round(keep.seconds * fps)
    end = begin + n_asked(keep, asked.request)
    if max(keep.seconds, keep.until or 0) > n / fps + 1e-6:
        raise _invalid(f"keep[{number}] is later than the end of the output at {n / fps:g} s; move it")
    if keep.image:
        latent = -(-min(begin, n - 1) // stride)
        return [latent], asked.picture(f"keep[{number}]", latent)
    first = -(-(begin - 1) // stride) + 1 if begin else 0
    last = asked.n_latent - 1 if end == n else (end - 1) // stride
    if end <= begin or first > last:
        raise _invalid(
            f"keep[{number}] holds no frames that are made together: they are frame 0, then {stride} at a "
            f"time from 1 on, and it holds {begin} to {end - 1}; make it longer"
        )
    start, stop = max(0, 1 + stride * (first - 1)), min(n, 1 + stride * last)
    asked.check("video", stop, "keeps")
    return range(first, last + 1), Piece("video", stop - start, at=start, first=start)


def _interpolate(asked: _Asked) -> Layout:
    """Frames of the video are shown as pictures, with one or more latent frames between two of them.

    Of the frames in between, those nearest to the wanted moments are shown.
    """
    stride, factor = asked.stride, asked.request.factor or 2
    n_sources = 1 + -(-(asked.n_frames - 1) // factor)
    asked.check("video", 1 + factor * (n_sources - 1), "needs")
    each = 1 + -(-(factor - 1) // stride)  # latent frames from one of the video's frames to the next
    moments = [0, *between(factor, stride)]
    shown = [stride * each * (i // factor) + moments[i % factor] for i in range(asked.n_frames)]
    piece = Piece("video", n_sources, step=factor, every=stride * each, hold=stride)
    return asked.of(piece, n_latent=1 + each * (n_sources - 1), shown=tuple(shown))


def between(factor: int, time_stride: int) -> list[int]:
    """The frames in between two of a video that are shown, counted from 1 to `n_between`."""
    n = n_between(factor, time_stride)
    return [int(i * (n + 1) / factor + 0.5) for i in range(1, factor)]


def n_between(factor: int, time_stride: int) -> int:
    """How many frames are made between two of a video, at equal distances: at least those that are shown."""
    return time_stride * -(-(factor - 1) // time_stride)


def _anew(asked: _Asked) -> Layout:
    """All of the media, to be made anew."""
    media, n = next(iter(asked.request.media)), asked.n_frames
    if media == "video":
        asked.check(media, n, "takes")
    return replace(asked.of(Piece(media, n)), is_kept=False)


def n_asked(keep: Keep, request: Request) -> int:
    """The output's frames that a part of `keep` names."""
    if keep.until is None:
        return 1
    return min(request.size.n_frames, round(keep.until * request.fps)) - round(keep.seconds * request.fps)


def _frames_of(latent: int, stride: int) -> str:
    return f"{1 + stride * (latent - 1)} to {stride * latent}" if latent else "0 to 0"


def _invalid(detail: str) -> Rejected:
    return Rejected(Reason.INVALID_REQUEST, detail)


_PLANS: dict[Mode, Callable[[_Asked], Layout]] = {
    Mode.TEXT_TO_VIDEO: _plain,
    Mode.IMAGE_TO_VIDEO: _from_picture,
    Mode.EXTEND_FORWARD: _forward,
    Mode.EXTEND_BACKWARD: _backward,
    Mode.JOIN: _join,
    Mode.FIRST_LAST: _first_last,
    Mode.LOOP: _loop,
    Mode.INFILL: _infill,
    Mode.INTERPOLATE: _interpolate,
    Mode.VIDEO_TO_VIDEO: _anew,
    Mode.IMAGE_TO_IMAGE: _anew,
}
