"""Open sources, and their frames by timestamp.

Times count from a source's first frame. The frame at a time is the one on screen then: the last whose
timestamp is not later. So a variable frame rate comes out right.

PyAV decodes packets; this module picks, skips and checks them. decord 0.6, which does all of that itself,
returns wrong channel counts at some narrow widths, turns frames upright for mp4 but not for mkv, mirrors
none, shows damaged frames as good ones, ignores pixel aspect ratios, and returns wrong frames after open GOPs
and in containers without an index (MPEG). So it is used only on request, and only on files in which the
frames around several key frames are PyAV's to the bit.
"""

import bisect
import contextlib
import ctypes
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import av
import decord
import numpy as np
from av.codec.hwaccel import HWAccel
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from vitascope import storage
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.clock import HOLD_S, LAST_STANDS_S, LONGEST_S, TIME_TOLERANCE_S
from vitascope.media.colour import over_white, to_rgb
from vitascope.media.containers import BARE, INDEXED, MOV, Source, open_container, parameter_sets, words
from vitascope.media.fields import COMBED, Deinterlacer, combing
from vitascope.media.geometry import Seen, Turn, View, displayed
from vitascope.media.pictures import PillowReader

_AHEAD_S = 2.0  # closer than this, decoding on is cheaper than a seek back to a key frame
_KEYS_COMPARED = 4  # key frames around which decord and PyAV have to agree, at least
# MPEG program streams have a timestamp only now and then: after a seek the first ones are guesses. Small
# files may have no other: they are read from the start.
_SMALL_BYTES, _MPEG_MARGIN_S = 16 << 20, 1.0
_MAX_REORDERED = 16  # frames that H.264 and HEVC may hold back

# PyAV 18 knows FFmpeg's kinds of side data up to 27, and fails on a frame with a later one, such as EXIF.
SideDataType._missing_ = classmethod(lambda cls, _: cls.VIDEO_HINT)  # type: ignore[method-assign,assignment]


class NoDevice(RuntimeError):
    """The machine has no hardware for the decoder."""


class Reader(Protocol):
    """An open source."""

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[Seen | None]:
        """What is on screen at each of these ascending times, up to the end of the source; None if damaged.

        It has a picture for each of `views` that is long enough; the longest come first.
        """
        ...

    @property
    def end_s(self) -> float:
        """When the last frame ends, once `pictures` has come to the end of the source."""


class DecordReader:
    """A source open in decord, which reads local files in place and remote ones whole; for plain views only.

    Raises:
        Rejected: DECODE_FAILED if PyAV shows other frames.
    """

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
        self._compare(PyavReader(uri))

    def _compare(self, other: Reader) -> None:
        """Raises Rejected unless `other` shows the same around some key frames and at both ends."""
        keys, last = self.video.get_key_indices(), len(self.times_s) - 1
        some = keys[:: max(len(keys) // _KEYS_COMPARED, 1)]
        indices = sorted({0, last} | {min(max(k + d, 0), last) for k in some for d in (-1, 0, 1)})
        theirs = list(other.pictures(self.times_s[indices], [View(len(indices))]))
        for index, seen in reversed(list(itertools.zip_longest(indices, theirs))):  # each after a seek
            if seen is None or not np.array_equal(self.video.get_batch([index]).asnumpy()[0], seen.views[0]):
                raise Rejected(Reason.DECODE_FAILED, "decord shows other frames than PyAV")

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[Seen | None]:
        assert all(view.is_plain for view in views), "decord's own scaling is not used"
        times_s = times_s[times_s <= self.end_s + HOLD_S]
        indices = np.searchsorted(self.times_s, times_s + TIME_TOLERANCE_S, side="right") - 1
        if len(indices) == 0:
            return
        frames = self.video.get_batch(indices.clip(min=0).tolist()).asnumpy()
        if frames.shape[-1] != 3:
            raise Rejected(Reason.DECODE_FAILED, f"decord gave {frames.shape[-1]} channels")
        yield from (Seen([frame] * len(views), frame.shape[:2]) for frame in frames)


class _Shown(NamedTuple):
    """A decoded frame, None if it is damaged, the times between which it is shown, and its pixels' aspect."""

    frame: av.VideoFrame | None
    at_s: float
    until_s: float
    aspect: float


class PyavReader:
    """A source open in PyAV, which reads only the ranges it needs.

    Times soon after the last ones are reached by decoding on, others by a seek. H.264 pictures in mp4 and
    Matroska that are not asked for, and that no other picture builds on, are not decoded.

    Each frame has a size, an aspect and a display matrix of its own, since broadcasts change them on the way.
    """

    def __init__(self, uri: str, hwaccel: Any = None) -> None:
        self._open: Callable[[], Source] = functools.partial(open_container, uri, hwaccel)
        self._before: Any = None
        self._shown: Any = None
        self._use(self._open())
        self._by_order = self.container.format.name == "avi"  # its timestamps are those of decoding
        self._is_bare = self.container.format.name in BARE
        is_mpeg = self.container.format.name == "mpeg"
        self._seeks = not self._is_bare and not (is_mpeg and self.container.size < _SMALL_BYTES)
        self._margin_s = _MPEG_MARGIN_S if is_mpeg else 0.0
        self._swscale: dict[tuple[View, str], VideoReformatter] = defaultdict(VideoReformatter)
        self._deinterlace = Deinterlacer()
        self._passes_over = self.container.format.name in INDEXED and _is_progressive(self.stream)
        self._latest: list[int] = []  # the two latest times of packets
        self._skipped: list[float] = []  # the times of pictures since the frame that is shown
        self._wanted: list[float] = []  # the times asked for, of the container's clock
        self._why = "it ends before the first"  # nothing decodes
        self._frames = self._from(None)
        first = next(self._frames, None)
        if first is None:
            raise Rejected(Reason.DECODE_FAILED, f"no frame of {self.source.about} decodes: {self._why}")
        self._first_s = first.at_s
        self._show(first)

    def _use(self, source: Source) -> None:
        self.source = source
        self.container, self.stream, self._decoder = source
        self._base = self.stream.time_base.as_integer_ratio()
        self._sets = parameter_sets(self._decoder)
        self._coded_aspect: Any = 0  # the stream's own, once something is decoded; the container's may differ
        self._aspects = [(-math.inf, float(self.stream.sample_aspect_ratio or 1))]  # each from a tick on

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[Seen | None]:
        last, seen = None, None
        self._wanted = (times_s + self._first_s + TIME_TOLERANCE_S).tolist()
        for i, shown in enumerate(self._on_screen(times_s + self._first_s)):
            if shown.frame is None:
                seen = None
            elif shown.frame is not last:
                seen = self._seen(shown, [view for view in views if view.n_frames > i])
            last = shown.frame
            yield seen

    @property
    def end_s(self) -> float:
        return self._shown.until_s - self._first_s

    def _seen(self, shown: _Shown, views: Sequence[View]) -> Seen:
        frame, turn = over_white(self._uncombed(shown)), turn_of(shown.frame)
        size = turn.size(displayed((frame.height, frame.width), shown.aspect))
        pictures = []
        for view in views:
            swscale = self._swscale[view, frame.format.name]
            pictures.append(turn.upright(to_rgb(swscale, frame, view.lying(turn), shown.aspect)))
        return Seen(pictures, size, frame)

    def _uncombed(self, shown: _Shown) -> Any:
        """The frame, deinterlaced if it is flagged as interlaced and is combed."""
        frame: Any = shown.frame
        if not frame.interlaced_frame or combing(frame) <= COMBED:
            return frame
        if self._passes_over:
            self._before, self._passes_over = None, False
        self._find_before()
        before, after = (near.frame if near else None for near in (self._before, self._next))
        return self._deinterlace(before, frame, after)

    def _on_screen(self, times_s: np.ndarray) -> Iterator[_Shown]:
        """What is shown at these times of the container's clock."""
        for i, time_s in enumerate(times_s):
            if i == 0 and not 0 <= time_s + TIME_TOLERANCE_S - self._shown.at_s < _AHEAD_S:
                self._seek(float(time_s))
            self._reach(time_s)
            if self._has_missed(time_s):
                self._passes_over = False
                self._seek(float(time_s))
                self._reach(time_s)
            if time_s > self._ends_s(time_s):
                return
            yield self._shown

    def _ends_s(self, time_s: float) -> float:
        """When the frame that is shown ends; the last frame of some containers has no duration."""
        if self._next is not None:
            return self._shown.at_s + LONGEST_S
        ends_s = self._shown.until_s + HOLD_S
        if time_s > ends_s and self.container.format.name != MOV:
            if len(self._latest) < 2:
                self._before = None
                self._find_before()
            stood_s = self._seconds(self._latest[-1] - self._latest[0]) if self._latest else 0
            ends_s = max(ends_s, self._shown.at_s + min(stood_s, LAST_STANDS_S) + HOLD_S)
        return ends_s

    def _find_before(self) -> None:
        """Goes back so that `_before` is the frame before the one that is shown, if it has one."""
        at_s = self._shown.at_s
        if self._before is None and at_s > self._first_s:
            self._seek(at_s - LAST_STANDS_S)
            self._reach(at_s)

    def _reach(self, time_s: float) -> None:
        while self._next is not None and self._next.at_s <= time_s + TIME_TOLERANCE_S:
            self._show(self._next)

    def _has_missed(self, time_s: float) -> bool:
        """Whether a picture for this time was skipped: it stays longer than the duration of its packet."""
        del self._skipped[: bisect.bisect_right(self._skipped, self._shown.at_s)]
        return bool(self._skipped) and self._skipped[0] <= time_s + TIME_TOLERANCE_S

    def _show(self, shown: _Shown) -> None:
        self._before, self._shown, self._next = self._shown, shown, next(self._frames, None)

    def _seek(self, start_s: float) -> None:
        """Shows the frame on screen at `start_s`, or an earlier one."""
        self._shown = None
        from_s = start_s - self._margin_s
        for target_s in (from_s, from_s - 5.0, self._first_s):  # some containers seek to after the target
            self._frames = self._from(target_s)
            first = next(self._frames, None)
            if target_s <= self._first_s or (first and first.at_s <= start_s + TIME_TOLERANCE_S):
                break
        if first is None:
            raise Rejected(Reason.DECODE_FAILED, f"the frames of {self.source.about} cannot be found again")
        self._show(first)

    def _from(self, start_s: float | None) -> Iterator[_Shown]:
        """Frames from the key frame before `start_s` on; from the first if None, or if it cannot seek."""
        self._skipped.clear()
        self._latest = []
        self._aspects = [(-math.inf, self._aspects[-1][1])]
        if start_s is not None and self._seeks:
            target = round(max(start_s, self._first_s) / self.stream.time_base)
            begin = start_s <= self._first_s
            try:
                self.container.seek(min(target, 0) if begin else target, stream=self.stream)
                self._decoder.flush_buffers()
                if self._sets:  # as a new decoder starts; those of a later part may be others
                    with contextlib.suppress(av.error.FFmpegError):
                        self._decoder.decode(av.Packet(self._sets))
                return _undamaged(self._decoded())
            except av.error.FFmpegError:
                pass
        if start_s is not None:
            self.container.close()
            self._use(self._open())
        return _undamaged(self._decoded())

    def _decoded(self) -> Iterator[_Shown]:
        """All frames, None for those of packets that do not decode, in the order in which they are shown."""
        lost: list[int] = []
        tick: int | None = 0 if self._is_bare else None
        for packet in self._packets():
            if packet is not None and packet.has_sidedata("new_extradata"):  # so the container gives the sets
                self._sets = b""
            if packet is not None and packet.size and (at := self._tick(packet)) is not None:
                self._latest = sorted({*self._latest, at})[-2:]
            elif self._by_order and self._latest:  # what is held back until the end has no time of its own
                tick = self._latest[-1] + 1
            if self._passes_over and packet is not None and not self._may_show(packet) and _is_alone(packet):
                assert packet.pts is not None  # or it may be shown
                bisect.insort(self._skipped, self._seconds(packet.pts))
                continue
            for frame in self._frames_of(packet, lost):
                own = frame.dts if self._by_order else None if self._is_bare else frame.pts
                tick = tick if own is None else own
                if tick is None:  # MPEG has times for some frames only, and a seek may end before others
                    continue
                while lost and lost[0] <= tick:
                    yield self._entry(None, lost.pop(0), 0)
                duration = frame.duration or (self._usual_ticks() if self._is_bare else 0)
                yield self._entry(None if frame.is_corrupt else frame, tick, duration)
                tick = tick + duration if duration else None
        yield from (self._entry(None, at, 0) for at in lost)

    def _frames_of(self, packet: av.Packet | None, lost: list[int]) -> list[av.VideoFrame]:
        """The frames in a packet; if it does not decode, or is cut short, its time is added to `lost`."""
        frames: list[av.VideoFrame] = []
        try:
            frames = self._decoder.decode(packet)
            is_damaged = packet is not None and packet.is_corrupt
        except av.error.EOFError:
            return []
        except av.error.FFmpegError as error:
            self._why, is_damaged = words(error), True
        tick = self._tick(packet)
        if is_damaged and tick is not None:
            bisect.insort(lost, tick)
        if frames:
            self._note_aspect(tick)
        return frames

    def _note_aspect(self, tick: int | None) -> None:
        coded = self._decoder.sample_aspect_ratio
        if self._coded_aspect not in (0, coded):
            self._aspects.append((-math.inf if tick is None else tick, float(coded or 1)))
        self._coded_aspect = coded

    def _tick(self, packet: av.Packet | None) -> int | None:
        if packet is None:
            return None
        return packet.dts if self._by_order else packet.pts

    def _usual_ticks(self) -> int:
        rate = self.stream.guessed_rate or self.stream.average_rate or 25
        return max(round(1 / (rate * self.stream.time_base)), 1)

    def _may_show(self, packet: av.Packet) -> bool:
        """Whether a packet's picture is on screen at a wanted time, or is later than all of them."""
        if packet.pts is None or not packet.duration:
            return True
        at_s = self._seconds(packet.pts)
        following = bisect.bisect_left(self._wanted, at_s)
        if following == len(self._wanted):
            return True
        return self._wanted[following] < at_s + self._seconds(packet.duration + 1)

    def _packets(self) -> Iterator[av.Packet | None]:
        """The packets up to the end, or to damage of the container; then None, for what is held back."""
        with contextlib.suppress(av.error.FFmpegError):
            yield from self.container.demux(self.stream)
        yield None

    def _entry(self, frame: av.VideoFrame | None, tick: int, duration: int) -> _Shown:
        at_s, stands_s = self._seconds(tick), min(self._seconds(duration), LONGEST_S)
        aspect = next(ratio for begins, ratio in reversed(self._aspects) if begins <= tick)
        return _Shown(frame, at_s, at_s + stands_s, aspect)

    def _seconds(self, ticks: int) -> float:
        """As float(ticks * time_base) to the last bit, in a tenth of the time."""
        return ticks * self._base[0] / self._base[1]


def turn_of(frame: Any) -> Turn:
    """The turn that makes a frame upright, by the display matrix of its container or of its own.

    Raises:
        Rejected: DECODE_FAILED if it is no quarter turn.
    """
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return Turn()
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    turn = Turn.of_matrix(a, b, c, d)
    if turn is None:
        angle = round(math.degrees(math.atan2(b, a)))
        what = f"its display matrix turns it by {angle} degrees; quarter turns and mirrors are applied"
        raise Rejected(Reason.DECODE_FAILED, what)
    return turn


def _is_progressive(stream: Any) -> bool:
    """Whether it is H.264 in the form of mp4 (ISO/IEC 14496-15), with 4 bytes of length, and no fields."""
    codec = stream.codec_context
    about = bytes(codec.extradata or b"")[:5]
    return codec.name == "h264" and codec.field_order == 1 and about[:1] == b"\1" and about[4] & 3 == 3


_LONE_SLICE, _NOTES = 0x01, (0x06, 0x09)  # first bytes of NAL units: nal_ref_idc 0 and type; SEI, delimiter


def _is_alone(packet: av.Packet) -> bool:
    """Whether a packet of H.264 looks whole and holds a picture that no other builds on.

    A damaged one has to be decoded: its failure shows that the pictures after it are spoilt.
    """
    content, at, kinds = memoryview(packet), 0, set()
    while at + 4 < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        kinds.add(content[at + 4])
        at += 4 + max(size, 1)
    return at == len(content) and not packet.is_corrupt and {_LONE_SLICE} == kinds - set(_NOTES)


def _undamaged(decoded: Iterator[_Shown]) -> Iterator[_Shown]:
    """The same, without frames that build on a damaged one: B-frames before it, all up to the next key frame.

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
    """A source decoded by an NVIDIA GPU, or by the processor if the GPU does not know its codec.

    Raises:
        NoDevice: the machine has none.
    """
    n_devices = ctypes.c_int(0)
    with contextlib.suppress(OSError):  # no driver
        cuda = ctypes.CDLL("libcuda.so.1")
        if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(n_devices)) != 0:
            n_devices.value = 0
    if n_devices.value == 0:
        what = "decoder nvdec needs an NVIDIA GPU and its driver, and this machine has none; use pyav"
        raise NoDevice(what)
    return PyavReader(uri, HWAccel("cuda", allow_software_fallback=True))


READERS: dict[str, Callable[[str], Reader]] = {
    "decord": DecordReader,
    "pyav": PyavReader,
    "pillow": PillowReader,
    "nvdec": _nvdec,
}
