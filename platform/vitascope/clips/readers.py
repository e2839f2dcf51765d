"""Open sources, and their frames by timestamp.

Times count from a source's first frame. The frame at a time is the one on screen then: the last whose
timestamp is not later. So a variable frame rate comes out right.

decord 0.6 returns wrong channel counts at some narrow widths, turns frames upright for mp4 but not for mkv,
shows damaged frames as if they were good, ignores aspect ratios of pixels, and finds other frames than asked
for in containers without an index (MPEG). `probe` gives it only files where none of this applies, and
`decode` only clips at their own size. PyAV opens the rest.
"""

import bisect
import contextlib
import ctypes
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import av
import decord
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from vitascope import storage
from vitascope.clips import tars
from vitascope.clips.clock import HOLD_S, LONGEST_S, TIME_TOLERANCE_S
from vitascope.clips.colour import to_rgb
from vitascope.clips.pictures import PillowReader
from vitascope.clips.resize import View
from vitascope.ledger import Reason, Rejected
from vitascope.stores.patience import Unavailable

_AHEAD_S = 2.0  # closer than this, decoding on is cheaper than a seek back to a key frame
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers that say where and when all packets are
_MAX_REORDERED = 16  # frames that H.264 and HEVC may hold back
_MAX_PIXELS = 2**26  # 8192 x 8192; a larger frame is a lying header
# Containers opened. Playlists (hls, concat, dash) stay out: they make the library read whatever files and
# addresses they name; so do text formats, which would render any text file as a video.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,mxf,ivf,nut,dv,mp3,wav,flac,aac"
)


class NoDevice(RuntimeError):
    """A decoder was asked for that this machine has no hardware for."""


class Reader(Protocol):
    """An open source."""

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[list[np.ndarray] | None]:
        """The frame on screen at each of these ascending times, or None where it is damaged.

        As each of `views` has it that is long enough, and the longest come first: uint8 (H, W, 3). They end
        where the source does. A frame that stands at several times is given several times.
        """
        ...


class DecordReader:
    """A source open in decord, which reads local files in place and remote ones whole. Gives plain views."""

    def __init__(self, uri: str) -> None:
        if storage.is_remote(uri) or tars.locate(uri):
            with tars.open_file(uri) as file:
                self.video = decord.VideoReader(file, num_threads=1)
        else:
            self.video = decord.VideoReader(storage.absolute(uri), num_threads=1)
        shown = self.video.get_frame_timestamp(range(len(self.video))).astype(np.float64)
        if shown[0, 0] < 0:
            raise Rejected(Reason.DECODE_FAILED, "decord counts frames that an edit list leaves out")
        self.times_s = shown[:, 0] - shown[0, 0]
        self.end_s = float(shown[-1, 1] - shown[0, 0])

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[list[np.ndarray] | None]:
        assert all(view.is_plain for view in views), "decord's own scaling is not used"
        times_s = times_s[times_s <= self.end_s + HOLD_S]
        indices = np.searchsorted(self.times_s, times_s + TIME_TOLERANCE_S, side="right") - 1
        if len(indices) == 0:
            return
        frames = self.video.get_batch(indices.clip(min=0).tolist()).asnumpy()
        if frames.shape[-1] != 3:
            raise Rejected(Reason.DECODE_FAILED, f"decord gave {frames.shape[-1]} channels")
        yield from ([frame] * len(views) for frame in frames)


class _Shown(NamedTuple):
    """A decoded frame, None where it is damaged, and the times between which it is shown."""

    frame: av.VideoFrame | None
    at_s: float
    until_s: float


class PyavReader:
    """A source open in PyAV, which reads only the ranges it needs.

    It stays where it was: times soon after the last ones are reached by decoding on, others by a seek. H.264
    pictures in mp4 and Matroska that nobody asks for and no other builds on are not decoded.
    """

    def __init__(self, uri: str, hwaccel: Any = None) -> None:
        self.container, self.stream = open_container(uri, hwaccel)
        self._by_order = self.container.format.name == "avi"  # its timestamps are those of decoding
        self._aspect = float(self.stream.sample_aspect_ratio or 1)
        self._swscale: dict[View, VideoReformatter] = defaultdict(VideoReformatter)
        self._passes_over = self.container.format.name in INDEXED and _is_progressive(self.stream)
        self._passed_over: list[float] = []  # the times of pictures since the frame that is shown
        self._wanted: list[float] = []  # the times asked for, of the container's clock
        self._frames = self._from(None)
        first = next(self._frames, None)
        if first is None:
            raise Rejected(Reason.DECODE_FAILED, "no frame decodes, or none says its time")
        self._first_s = first.at_s
        self._show(first)

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[list[np.ndarray] | None]:
        last, pictures = None, []
        self._wanted = (times_s + self._first_s + TIME_TOLERANCE_S).tolist()
        for i, frame in enumerate(self._on_screen(times_s + self._first_s)):
            if frame is not None and frame is not last:
                seen = [view for view in views if view.n_frames > i]
                pictures = [to_rgb(self._swscale[view], frame, view, self._aspect) for view in seen]
            last = frame
            yield None if frame is None else pictures

    def _on_screen(self, times_s: np.ndarray) -> Iterator[av.VideoFrame | None]:
        """The frames at these times of the container's clock."""
        for i, time_s in enumerate(times_s):
            if i == 0 and not 0 <= time_s + TIME_TOLERANCE_S - self._shown.at_s < _AHEAD_S:
                self._seek(float(time_s))
            self._reach(time_s)
            if self._has_missed(time_s):
                self._passes_over = False
                self._seek(float(time_s))
                self._reach(time_s)
            ends_s = self._shown.until_s + HOLD_S if self._next is None else self._shown.at_s + LONGEST_S
            if time_s > ends_s:
                return
            yield self._shown.frame

    def _reach(self, time_s: float) -> None:
        while self._next is not None and self._next.at_s <= time_s + TIME_TOLERANCE_S:
            self._show(self._next)

    def _has_missed(self, time_s: float) -> bool:
        """Whether a picture for this time was passed over, as it stands longer than its packet says."""
        del self._passed_over[: bisect.bisect_right(self._passed_over, self._shown.at_s)]
        return bool(self._passed_over) and self._passed_over[0] <= time_s + TIME_TOLERANCE_S

    def _show(self, shown: _Shown) -> None:
        self._shown, self._next = shown, next(self._frames, None)

    def _seek(self, start_s: float) -> None:
        """Shows the frame on screen at `start_s`, or an earlier one."""
        for target_s in (start_s, start_s - 5.0, self._first_s):  # some containers seek to after the target
            self._frames = self._from(target_s)
            first = next(self._frames, None)
            if target_s <= self._first_s or (first and first.at_s <= start_s + TIME_TOLERANCE_S):
                break
        if first is None:
            raise Rejected(Reason.DECODE_FAILED, "its frames cannot be found again")
        self._show(first)

    def _from(self, start_s: float | None) -> Iterator[_Shown]:
        """Frames from the key frame before `start_s` on; as the container was opened where there is none."""
        self._passed_over.clear()
        if start_s is not None:
            target = round(max(start_s, self._first_s) / self.stream.time_base)
            begin = start_s <= self._first_s
            self.container.seek(min(target, 0) if begin else target, stream=self.stream)
        return _undamaged(self._decoded())

    def _decoded(self) -> Iterator[_Shown]:
        """All frames, None for those of packets that do not decode, in the order in which they are shown."""
        lost: list[int] = []
        tick: int | None = None
        for packet in self._packets():
            if tick is None and self._by_order and packet is not None:
                tick = packet.dts
            if self._passes_over and packet is not None and not self._may_show(packet) and _is_alone(packet):
                bisect.insort(self._passed_over, float(packet.pts * self.stream.time_base))
                continue
            try:
                frames = self.stream.decode(packet)
            except av.error.EOFError:
                frames = []
            except av.error.FFmpegError:
                frames = []
                self._note(packet, lost)
            else:
                if packet is not None and packet.is_corrupt:
                    self._note(packet, lost)
            for frame in frames:
                said = frame.dts if self._by_order else frame.pts
                tick = tick if said is None else said
                if tick is None:  # MPEG says the times of some frames only, and a seek may end before others
                    continue
                while lost and lost[0] <= tick:
                    yield self._entry(None, lost.pop(0), 0)
                yield self._entry(None if frame.is_corrupt else frame, tick, frame.duration or 0)
                tick = tick + frame.duration if frame.duration else None
        yield from (self._entry(None, at, 0) for at in lost)

    def _may_show(self, packet: av.Packet) -> bool:
        """Whether what is in a packet is on screen at a time that is asked for, or later than all of them."""
        if packet.pts is None or not packet.duration:
            return True
        at_s = float(packet.pts * self.stream.time_base)
        following = bisect.bisect_left(self._wanted, at_s)
        if following == len(self._wanted):
            return True
        return self._wanted[following] < at_s + float((packet.duration + 1) * self.stream.time_base)

    def _packets(self) -> Iterator[av.Packet | None]:
        """The packets, up to the end or where the container breaks; then None, for what is held back."""
        with contextlib.suppress(av.error.FFmpegError):
            yield from self.container.demux(self.stream)
        yield None

    def _note(self, packet: av.Packet | None, lost: list[int]) -> None:
        tick = None if packet is None else packet.dts if self._by_order else packet.pts
        if tick is not None:
            bisect.insort(lost, tick)

    def _entry(self, frame: av.VideoFrame | None, tick: int, duration: int) -> _Shown:
        base = self.stream.time_base
        stands_s = min(float(duration * base), LONGEST_S)
        return _Shown(frame, float(tick * base), float(tick * base) + stands_s)


def _is_progressive(stream: Any) -> bool:
    """Whether it is H.264 in the form of mp4 (ISO/IEC 14496-15), with 4 bytes of length, and no fields."""
    codec = stream.codec_context
    about = bytes(codec.extradata or b"")[:5]
    return codec.name == "h264" and codec.field_order == 1 and about[:1] == b"\1" and about[4] & 3 == 3


_LONE_SLICE, _NOTES = 0x01, (0x06, 0x09)  # first bytes of NAL units: nal_ref_idc 0 and type; SEI, delimiter


def _is_alone(packet: av.Packet) -> bool:
    """Whether a packet of H.264 is, for all that can be seen, whole, and a picture that no other builds on.

    A damaged one has to be decoded: that it cannot be says that what follows is spoilt.
    """
    content, at, kinds = memoryview(packet), 0, set()
    while at + 4 < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kinds.add(content[at + 4])
        at += 4 + max(size, 1)
    return at == len(content) and not packet.is_corrupt and {_LONE_SLICE} == kinds - set(_NOTES)


def _undamaged(decoded: Iterator[_Shown]) -> Iterator[_Shown]:
    """The same, None also for frames that build on a damaged one: B-frames before, all until a key frame.

    So B-frames wait for the frame after them.
    """
    run: list[_Shown] = []
    spoilt = False
    for shown in decoded:
        if shown.frame is not None and shown.frame.key_frame:
            yield from _judged(run, spoilt)
            run, spoilt = [], False
        run.append(shown)
        spoilt = spoilt or shown.frame is None
        if shown.frame is None or shown.frame.pict_type != PictureType.B or len(run) > _MAX_REORDERED:
            yield from _judged(run, spoilt)
            run = []
    yield from _judged(run, spoilt)


def _judged(run: list[_Shown], spoilt: bool) -> Iterator[_Shown]:
    return (shown._replace(frame=None) if spoilt else shown for shown in run)


def _nvdec(uri: str) -> PyavReader:
    """A source decoded by an NVIDIA GPU, or by the processor where the GPU does not know its codec.

    Raises:
        NoDevice: where the machine has none.
    """
    try:
        n_devices = ctypes.c_int(0)
        cuda = ctypes.CDLL("libcuda.so.1")
        found = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(n_devices)) == 0
    except OSError:
        found = False
    if not found or n_devices.value == 0:
        raise NoDevice(
            "decoder nvdec needs an NVIDIA GPU and its driver, and this machine has none; use pyav"
        )
    return PyavReader(uri, HWAccel("cuda", allow_software_fallback=True))


READERS: dict[str, Any] = {
    "decord": DecordReader,
    "pyav": PyavReader,
    "pillow": PillowReader,
    "nvdec": _nvdec,
}


def open_container(uri: str, hwaccel: Any = None) -> tuple[Any, Any]:
    """A container open in PyAV, and its video stream (cover pictures of audio files do not count).

    Raises:
        Rejected: UNREADABLE, NO_VIDEO_STREAM, or DECODE_FAILED where its codec is not known.
        Unavailable: where the store does not answer.
    """
    try:
        file = tars.open_file(uri)
        options = {"format_whitelist": _CONTAINERS}
        container = av.open(file, metadata_errors="ignore", options=options, hwaccel=hwaccel)
    except Unavailable:
        raise
    except (OSError, av.error.FFmpegError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Rejected(Reason.UNREADABLE, f"no decoder opens it ({why})") from None
    pictures = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & pictures]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams}))
        raise Rejected(Reason.NO_VIDEO_STREAM, f"holds only {kinds or 'no streams'}")
    best = container.streams.best("video")
    stream = best if best in videos else videos[0]
    if stream.codec_context is None:
        raise Rejected(Reason.DECODE_FAILED, "no decoder knows its codec")
    stream.codec_context.thread_count = 1  # a task has one core
    stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
    return container, stream
