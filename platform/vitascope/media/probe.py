"""What a media file is.

PyAV's and ffprobe's durations, rates and numbers of frames are those of the headers, which are wrong for
files cut short and for live captures; so packets are counted here.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import av

from vitascope import storage
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.clock import HOLD_S, LAST_STANDS_S
from vitascope.media.colour import is_plain
from vitascope.media.containers import INDEXED, MATROSKA, Source, open_container, words
from vitascope.media.geometry import displayed
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.pictures import Picture, open_picture
from vitascope.media.readers import DecordReader, turn_of
from vitascope.stores.patience import Unavailable

_LONGEST_S = 100 * 86_400.0  # a header that says more lies
_UNSAID_S = 1.0  # that headers may leave out or add; beyond it, packets have a gap, or are missing
_DECORD_LATEST_S = 3 * 3600.0  # its timestamps are float32, and there 1 ms coarse


@dataclass(frozen=True)
class Facts:
    """What a media file is: the columns of clips.table.VIDEOS from kind to decoder, and two remarks.

    Width and height are as displayed: upright, with square pixels. The duration runs from the beginning of
    the first frame to the end of the last.
    """

    kind: Literal["video", "image"]
    codec: str
    width: int
    height: int
    rotation_deg: int
    fps: float | None
    duration_s: float
    n_frames: int | None
    decoder: str
    mirrored: bool | None = None  # None: a picture
    said_s: float | None = None  # the duration by a video's headers, if no packets back it
    detail: str | None = None  # what is wrong with a picture although it can be used


def probe(uri: str, *, timeout_s: float = 60.0, decord: bool = False) -> Facts:
    """The facts about a file, after decoding its first frame if it is a video.

    Args:
        decord: it is tried, and is the decoder if it shows the same frames; it reads remote files whole.

    Raises:
        Rejected: UNREADABLE, EMPTY_FILE, NO_VIDEO_STREAM or DECODE_FAILED.
        Unavailable: the store does not answer.
    """
    for with_decord in (True, False) if decord else (False,):
        try:
            return isolated(_probe, timeout_s=timeout_s, uri=uri, with_decord=with_decord)
        except ChildDied as death:
            cause = str(death)
    raise Rejected(Reason.UNREADABLE, cause, doubtful=True)


def _probe(uri: str, with_decord: bool) -> Facts:
    try:
        member = tars.locate(uri)
        n_bytes = member.size_bytes if member else storage.size_bytes(uri)
        if n_bytes == 0:
            raise Rejected(Reason.EMPTY_FILE, "0 bytes")
        picture = open_picture(uri)
        return _of_picture(picture) if picture else _of_video(uri, with_decord)
    except (Rejected, Unavailable):
        raise
    except Exception as error:
        raise Rejected(Reason.UNREADABLE, words(error)) from None


def _of_picture(picture: Picture) -> Facts:
    height, width = picture.size
    n_frames, duration_s = max(len(picture.durations_s), 1), float(sum(picture.durations_s))
    return Facts(
        kind="video" if duration_s else "image",
        codec=picture.codec,
        width=width,
        height=height,
        rotation_deg=picture.rotation_deg,
        fps=n_frames / duration_s if duration_s else None,
        duration_s=duration_s,
        n_frames=n_frames,
        decoder="pillow",
        detail=picture.remark,
    )


def _of_video(uri: str, with_decord: bool) -> Facts:
    source = open_container(uri)
    with source.container:
        frame = _first_frame(source)
        turn, aspect = turn_of(frame), float(source.stream.sample_aspect_ratio or 1)
        height, width = turn.size(displayed((frame.height, frame.width), aspect))
        length = _length(source, uri)
        for_decord = with_decord and _is_for_decord(source, frame, length.duration_s)
    return Facts(
        kind="video",
        codec=source.stream.codec_context.name,
        width=width,
        height=height,
        rotation_deg=turn.clockwise_deg,
        mirrored=turn.mirrors,
        **length._asdict(),
        decoder="decord" if for_decord and _decord_agrees(uri, length.duration_s) else "pyav",
    )


def _first_frame(source: Source) -> av.VideoFrame:
    why = "it ends before the first"
    packets = source.container.demux(source.stream)
    while True:
        try:
            return next(frame for packet in packets for frame in source.decoder.decode(packet))
        except (StopIteration, av.error.EOFError):
            break
        except av.error.FFmpegError as error:  # a reader goes on after a packet that does not decode
            why = words(error)
    raise Rejected(Reason.DECODE_FAILED, f"no frame of {source.about} can be decoded: {why}") from None


class _Length(NamedTuple):
    duration_s: float
    n_frames: int | None
    fps: float | None
    said_s: float | None = None


def _length(source: Source, uri: str) -> _Length:
    """How long a video is, by its packets: headers promise frames that a file cut short does not have.

    Remote files are read whole only if their headers do not say it; they are fetched before they are scanned.
    """
    stream, header_s = source.stream, _header_s(source.container, source.stream)
    if not header_s or not storage.is_remote(uri):
        return _counted(uri, stream, header_s)
    fps = _rate(stream)
    return _Length(header_s, stream.frames or (round(header_s * fps) if fps else None), fps)


def _rate(stream: Any) -> float | None:
    return float(stream.average_rate or stream.guessed_rate or 0) or None


def _header_s(container: Any, stream: Any) -> float:
    """The duration by the headers; 0 if they have none, or nonsense."""
    header_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not header_s and container.duration:
        begins_s = container.start_time or 0 if container.format.name == MATROSKA else 0
        header_s = (container.duration - begins_s) / av.time_base  # Matroska's duration counts from 0
    return header_s if 0 < header_s <= _LONGEST_S else 0.0


def _counted(uri: str, stream: Any, header_s: float) -> _Length:
    """The length by the packets; by the headers if they count as many.

    Rates that are only estimated are wrong for live captures and screen recordings.
    """
    source = open_container(uri)
    base = source.stream.time_base
    packets, others_end_s = _packets(source)
    if header_s and stream.frames == len(packets):
        return _Length(header_s, stream.frames, _rate(stream) or stream.frames / header_s)
    timed = sorted((tick, length) for tick, length in packets if tick is not None)
    ticks = sorted({tick for tick, _ in timed})
    if len(ticks) < 2:
        duration_s, n_frames = float(sum(length for _, length in packets) * base) or header_s, len(packets)
        fps = n_frames / duration_s if duration_s else _rate(stream)
        return _Length(duration_s, n_frames or None, fps, _unbacked(header_s, duration_s, others_end_s))
    last = max(timed[-1][1], min(ticks[-1] - ticks[-2], int(LAST_STANDS_S / base)))
    counted_s = float((ticks[-1] - ticks[0] + last) * base)
    has_gap = header_s and counted_s - header_s >= _UNSAID_S
    duration_s = header_s if has_gap else min(counted_s, _LONGEST_S)
    fps, rate = (len(ticks) - 1) / float((ticks[-1] - ticks[0]) * base), _rate(stream)
    fps = rate if rate and abs(fps / rate - 1) < 0.02 else fps
    return _Length(duration_s, len(ticks), fps, _unbacked(header_s, counted_s, others_end_s))


def _unbacked(header_s: float, counted_s: float, others_end_s: float) -> float | None:
    """The duration by the video's headers, not by sound's, if packets end long before it."""
    is_own = header_s - others_end_s >= _UNSAID_S
    return header_s if is_own and header_s - counted_s >= _UNSAID_S else None


def _packets(source: Source) -> tuple[list[tuple[int | None, int]], float]:
    """When each whole packet is shown and for how long, in ticks, up to damage of the container.

    And when the last packet of the other tracks ends, in seconds from the beginning.
    """
    by_order = source.container.format.name == "avi"  # its timestamps are those of decoding
    packets: list[tuple[int | None, int]] = []
    others_end_s = 0.0
    with source.container as container, contextlib.suppress(av.error.FFmpegError):
        begins_s = 0.0 if container.format.name == MATROSKA else (container.start_time or 0) / av.time_base
        for packet in container.demux():
            if not packet.size or packet.is_corrupt or packet.is_discard:
                continue
            if packet.stream_index == source.stream.index:
                packets.append((packet.dts if by_order else packet.pts, packet.duration or 0))
            elif packet.pts is not None:
                ends_s = float((packet.pts + (packet.duration or 0)) * packet.time_base) - begins_s
                others_end_s = max(others_end_s, ends_s)
    return packets, others_end_s


def _is_for_decord(source: Source, frame: av.VideoFrame, duration_s: float) -> bool:
    """Whether nothing but decord itself rules decord out."""
    container = source.container
    longest_s = max(duration_s, (container.duration or 0) / av.time_base)
    if container.format.name not in INDEXED or not is_plain(frame):
        return False
    if (frame.time or 0) + longest_s > _DECORD_LATEST_S:
        return False
    # The last second must have no packet cut short, which decord would show as if it were good.
    container.seek(round(max(duration_s - 1, 0) * av.time_base) + (container.start_time or 0))
    try:
        return not any(packet.is_corrupt for packet in container.demux(source.stream))
    except av.error.FFmpegError:
        return False


def _decord_agrees(uri: str, duration_s: float) -> bool:
    """Whether decord opens the whole file and shows the same frames as PyAV."""
    try:
        return DecordReader(uri).end_s + HOLD_S >= duration_s
    except Exception:  # whatever it was, PyAV has opened the file
        return False
