"""Frames of a clip, by timestamp.

Two video decoders behind one interface (`read` takes times, gives frames): decord first, PyAV for what
decord cannot do. Times count from the source's first frame. The frame at a time is the one on screen then:
the last whose timestamp is not later. So a variable frame rate comes out right.

decord 0.6 returns wrong channel counts at some narrow widths, turns frames upright for mp4 but not for
mkv, shows damaged frames as if they were good, and finds other frames than asked for in containers without
an index (MPEG); `probe` gives it only files where none of this applies.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Protocol

import av
import decord
import numpy as np
from PIL import Image, ImageOps

from vitascope import storage
from vitascope.clips.isolate import ChildDied, isolated
from vitascope.clips.phash import phash
from vitascope.ledger import Reason, Rejected

HOLD_S = 0.1  # how much longer than it says the last frame may stand: containers round their durations
_TIME_TOLERANCE_S = 0.002  # decord's timestamps are float32: 1 ms coarse after three hours
_IMAGES = ("JPEG", "PNG", "WEBP", "BMP")
# Containers opened. Playlists (hls, concat, dash) stay out: they make the library read whatever files and
# addresses they name; so do text formats, which would render any text file as a video.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif,mxf,ivf,nut,dv,mp3,wav,flac,aac"
)


def read_clip(
    uri: str,
    *,
    start_s: float = 0.0,
    fps: float = 1.0,
    n_frames: int = 1,
    rotation_deg: int = 0,
    decoder: str,
    timeout_s: float = 60.0,
) -> np.ndarray:
    """The frames on screen at start_s + i/fps, i < n_frames, upright: uint8 (F, H, W, 3), RGB.

    Args:
        uri: a local path, s3:// or gs:// URI.
        rotation_deg: clockwise turn that makes the picture upright, from `probe`.
        decoder: decord, pyav or pillow, from `probe`. Where decord fails, PyAV is tried.

    Raises:
        Rejected: DECODE_FAILED, also where decoding takes longer than `timeout_s`.
    """
    times_s = start_s + np.arange(n_frames) / fps
    return _outside(_read, uri, decoder, timeout_s, times_s=times_s, rotation_deg=rotation_deg)


def check_clip(
    uri: str,
    *,
    start_s: float,
    fps: float,
    n_frames: int,
    rotation_deg: int,
    decoder: str,
    timeout_s: float,
) -> tuple[int, str]:
    """Decodes a clip as `read_clip` does, and gives its middle frame's phash and the decoder that managed."""
    times_s = start_s + np.arange(n_frames) / fps
    return _outside(_check, uri, decoder, timeout_s, times_s=times_s, rotation_deg=rotation_deg)


def _outside(function: Any, uri: str, decoder: str, timeout_s: float, **arguments: Any) -> Any:
    """Calls `function` in the child; where decord hangs or crashes it, again with PyAV."""
    for attempt in (decoder, "pyav") if decoder == "decord" else (decoder,):
        try:
            return isolated(function, timeout_s=timeout_s, uri=uri, decoder=attempt, **arguments)
        except ChildDied as death:
            cause = str(death)
    raise Rejected(Reason.DECODE_FAILED, cause) from None


def _check(uri: str, decoder: str, times_s: np.ndarray, rotation_deg: int) -> tuple[int, str]:
    frames, used = _decode(uri, decoder, times_s, rotation_deg)
    return phash(frames[len(frames) // 2]), used


def _read(uri: str, decoder: str, times_s: np.ndarray, rotation_deg: int) -> np.ndarray:
    return _decode(uri, decoder, times_s, rotation_deg)[0]


def _decode(uri: str, decoder: str, times_s: np.ndarray, rotation_deg: int) -> tuple[np.ndarray, str]:
    """The frames, and which decoder they came from. Runs in the child; all failures become Rejected."""
    try:
        version = _version(uri)
        if decoder == "decord":
            try:
                return _reader(uri, decoder, version).read(times_s), decoder
            except Exception:  # whatever it was, PyAV decides whether the clip is bad, and says why
                decoder = "pyav"
        frames = _reader(uri, decoder, version).read(times_s)
        return (frames if decoder == "pillow" else upright(frames, rotation_deg)), decoder
    except Rejected:
        raise
    except Exception as error:
        raise Rejected(Reason.DECODE_FAILED, f"{type(error).__name__}: {error}") from None


def upright(frames: np.ndarray, rotation_deg: int) -> np.ndarray:
    """`frames` (F H W 3) turned clockwise by `rotation_deg`, a multiple of 90."""
    return np.ascontiguousarray(np.rot90(frames, -rotation_deg // 90, axes=(1, 2)))


class Reader(Protocol):
    """An open source."""

    def read(self, times_s: np.ndarray) -> np.ndarray:
        """The frames on screen at these ascending times: uint8 (F, H, W, 3)."""
        ...


@functools.lru_cache(maxsize=1)
def _reader(uri: str, decoder: str, version: str) -> Reader:  # noqa: ARG001 - a changed file is another file
    """The reader of a source, kept open since clips of one source are asked for one after the other."""
    return READERS[decoder](uri)


def _version(uri: str) -> str:
    fs, path = storage.filesystem(uri)
    return str(fs.ukey(path))


class DecordReader:
    """A source open in decord, which reads local files in place and remote ones whole."""

    def __init__(self, uri: str) -> None:
        if storage.is_remote(uri):
            with storage.open_file(uri) as file:
                self.video = decord.VideoReader(file, num_threads=1)
        else:
            self.video = decord.VideoReader(storage.absolute(uri), num_threads=1)
        shown = self.video.get_frame_timestamp(range(len(self.video))).astype(np.float64)
        self.times_s = shown[:, 0] - shown[0, 0]
        self.end_s = float(shown[-1, 1] - shown[0, 0])

    def read(self, times_s: np.ndarray) -> np.ndarray:
        _check_covered(times_s, self.end_s)
        indices = np.searchsorted(self.times_s, times_s + _TIME_TOLERANCE_S, side="right") - 1
        frames = self.video.get_batch(indices.clip(min=0).tolist()).asnumpy()
        if frames.shape[-1] != 3:
            raise Rejected(Reason.DECODE_FAILED, f"decord gave {frames.shape[-1]} channels")
        return frames


class PyavReader:
    """A source open in PyAV, which reads only the ranges it needs."""

    def __init__(self, uri: str) -> None:
        self.container, self.stream = open_container(uri)
        self.stream.thread_type = "SLICE"
        self.first_s = float((self.stream.start_time or 0) * self.stream.time_base)

    def read(self, times_s: np.ndarray) -> np.ndarray:
        picked: list[np.ndarray] = []
        shown: Any = None
        end_s = 0.0
        for frame, at_s, until_s in self._frames_from(float(times_s[0])):
            n_due = int(np.searchsorted(times_s, at_s - _TIME_TOLERANCE_S)) if shown else 0
            picked += [_rgb(shown)] * (n_due - len(picked)) if n_due > len(picked) else []
            if len(picked) == len(times_s):
                return np.stack(picked)
            shown, end_s = frame, until_s
        _check_covered(times_s, end_s)
        return np.stack(picked + [_rgb(shown)] * (len(times_s) - len(picked)))

    def _frames_from(self, start_s: float) -> Iterator[tuple[av.VideoFrame, float, float]]:
        """Frames from the one shown at `start_s`, or earlier, with the times between which they are shown."""
        for target_s in (start_s, start_s - 5.0, 0.0):  # some containers seek to somewhat after the target
            frames = self._decoded(target_s)
            first = next(frames, None)
            if target_s <= 0 or (first and first[1] <= start_s + _TIME_TOLERANCE_S):
                break
        if first:
            yield first
            yield from frames

    def _decoded(self, start_s: float) -> Iterator[tuple[av.VideoFrame, float, float]]:
        target = round((max(start_s, 0.0) + self.first_s) / self.stream.time_base)
        self.container.seek(target if start_s > 0 else min(target, 0), stream=self.stream)
        for frame in self._until_damage():
            if frame.pts is None:
                raise Rejected(Reason.DECODE_FAILED, "its frames carry no timestamps")
            at_s = float(frame.pts * self.stream.time_base) - self.first_s
            yield frame, at_s, at_s + float((frame.duration or 0) * self.stream.time_base)

    def _until_damage(self) -> Iterator[av.VideoFrame]:
        """Frames up to the end or the first damaged packet; what is missing then shows in their times."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    break
                yield from self.stream.decode(packet)
        except av.error.InvalidDataError:
            pass
        with contextlib.suppress(av.error.EOFError, av.error.InvalidDataError):
            yield from self.stream.decode(None)  # what the decoder still holds back


class PillowReader:
    """A still image: one frame at every time. EXIF's rotation is applied here."""

    def __init__(self, uri: str) -> None:
        with storage.open_file(uri) as file, open_image(file) as image:
            self.frame = _opaque(ImageOps.exif_transpose(image))

    def read(self, times_s: np.ndarray) -> np.ndarray:
        return np.repeat(self.frame[None], len(times_s), axis=0)


READERS: dict[str, Any] = {"decord": DecordReader, "pyav": PyavReader, "pillow": PillowReader}


def open_image(file: Any) -> Image.Image:
    """A still image open in Pillow, not yet decoded; raises OSError where it is none."""
    return Image.open(file, formats=_IMAGES)


def open_container(uri: str) -> tuple[Any, Any]:
    """A container open in PyAV, and its video stream (cover pictures of audio files do not count).

    Raises:
        Rejected: UNREADABLE or NO_VIDEO_STREAM.
    """
    try:
        file = storage.open_file(uri)
        container = av.open(file, metadata_errors="ignore", options={"format_whitelist": _CONTAINERS})
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Rejected(Reason.UNREADABLE, f"no decoder opens it ({why})") from None
    pictures = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & pictures]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams}))
        raise Rejected(Reason.NO_VIDEO_STREAM, f"holds only {kinds or 'no streams'}")
    best = container.streams.best("video")
    return container, best if best in videos else videos[0]


def _check_covered(times_s: np.ndarray, end_s: float) -> None:
    if times_s[-1] > end_s + HOLD_S:
        missing = f"frames end at {end_s:.2f} s, the clip goes on to {times_s[-1]:.2f} s"
        raise Rejected(Reason.DECODE_FAILED, missing)


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    if frame.is_corrupt:
        raise Rejected(Reason.DECODE_FAILED, "one of its frames is damaged")
    return frame.to_ndarray(format="rgb24")


def _opaque(image: Image.Image) -> np.ndarray:
    """Any Pillow image as RGB uint8 (H W 3): transparency over white, 16-bit grey scaled down to 8."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
