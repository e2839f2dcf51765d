"""What a media file is."""

import contextlib
from typing import Any, NamedTuple

import av

from vitascope import storage
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.media.clock import HOLD_S, LAST_STANDS_S
from vitascope.media.colour import is_plain
from vitascope.media.containers import INDEXED, Source, open_container, words
from vitascope.media.geometry import displayed
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.pictures import open_picture
from vitascope.media.readers import READERS, turn_of
from vitascope.stores.patience import Unavailable

_LONGEST_S = 100 * 86_400.0  # a header that says more lies
_UNSAID_S = 1.0  # that headers may leave out or add; beyond it, packets have a gap, or are missing
_DECORD_LATEST_S = 3 * 3600.0  # its timestamps are float32, and there 1 ms coarse


def probe(uri: str, *, timeout_s: float = 60.0, decord: bool = False) -> dict[str, Any]:
    """The media columns of table.VIDEOS, kind to decoder, after decoding a video's first frame.

    Of a video also `said_s`: the duration by its headers, if no packets back it. Of a picture also `detail`:
    what is wrong with it although it can be used, or None.

    Width and height are as displayed: upright, with square pixels. Duration runs from the first frame's
    beginning to the last one's end.

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


def _probe(uri: str, with_decord: bool) -> dict[str, Any]:
    try:
        member = tars.locate(uri)
        n_bytes = member.size_bytes if member else storage.size_bytes(uri)
        if n_bytes == 0:
            raise Rejected(Reason.EMPTY_FILE, "0 bytes")
        return _probe_image(uri) or _probe_video(uri, with_decord)
    except (Rejected, Unavailable):
        raise
    except Exception as error:
        raise Rejected(Reason.UNREADABLE, words(error)) from None


def _probe_image(uri: str) -> dict[str, Any] | None:
    picture = open_picture(uri)
    if picture is None:
        return None
    height, width = picture.size
    n_frames, duration_s = max(len(picture.durations_s), 1), float(sum(picture.durations_s))
    return {
        "kind": "video" if duration_s else "image",
        "codec": picture.codec,
        "width": width,
        "height": height,
        "rotation_deg": picture.rotation_deg,
        "fps": n_frames / duration_s if duration_s else None,
        "duration_s": duration_s,
        "n_frames": n_frames,
        "decoder": "pillow",
        "detail": picture.remark,
    }


def _probe_video(uri: str, with_decord: bool) -> dict[str, Any]:
    source = open_container(uri)
    container, stream = source.container, source.stream
    with container:
        frame = _first_frame(source)
        turn = turn_of(frame)
        shown = displayed((frame.height, frame.width), float(stream.sample_aspect_ratio or 1))
        height, width = turn.size(shown)
        length = _length(source, uri)
        row = {
            "kind": "video",
            "codec": stream.codec_context.name,
            "width": width,
            "height": height,
            "rotation_deg": turn.clockwise_deg,
            "mirrored": turn.mirrors,
            "fps": length.fps,
            "duration_s": length.duration_s,
            "n_frames": length.n_frames,
            "said_s": length.said_s,
        }
        may = with_decord and container.format.name in INDEXED and is_plain(frame)
        longest_s = max(length.duration_s, (container.duration or 0) / av.time_base)
        may = may and (frame.time or 0) + longest_s <= _DECORD_LATEST_S
        may = may and not _damaged_end(container, stream, length.duration_s)
    return row | {"decoder": "decord" if may and _decord_agrees(uri, length.duration_s) else "pyav"}


def _first_frame(source: Source) -> av.VideoFrame:
    why = "it ends before the first"
    packets = source.container.demux(source.stream)
    while True:
        try:  # a reader goes on after a packet that does not decode
            packet = next(packets, None)
            if packet is None:
                break
            for frame in source.decoder.decode(packet):
                return frame
        except av.error.EOFError:
            break
        except av.error.FFmpegError as error:
            why = words(error)
    raise Rejected(Reason.DECODE_FAILED, f"no frame of {source.about} can be decoded: {why}") from None


class _Length(NamedTuple):
    duration_s: float
    n_frames: int | None
    fps: float | None
    said_s: float | None = None  # by its headers, if no packets back it


def _length(source: Source, uri: str) -> _Length:
    """How long a video is, by its packets: headers promise frames that a file cut short does not have.

    Remote files are read whole only if their headers do not say it; they are fetched before they are scanned.
    """
    stream, said_s = source.stream, _said_s(source.container, source.stream)
    if not said_s or not storage.is_remote(uri):
        return _counted(uri, stream, said_s)
    fps = _rate(stream)
    return _Length(said_s, stream.frames or (round(said_s * fps) if fps else None), fps)


def _rate(stream: Any) -> float | None:
    return float(stream.average_rate or stream.guessed_rate or 0) or None


def _said_s(container: Any, stream: Any) -> float:
    """What the headers say; 0 if they say nothing, or nonsense."""
    said_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not said_s and container.duration:
        counted_s = container.start_time or 0 if container.format.name == "matroska,webm" else 0
        said_s = (container.duration - counted_s) / av.time_base  # Matroska's duration counts from 0
    return said_s if 0 < said_s <= _LONGEST_S else 0.0


def _counted(uri: str, stream: Any, said_s: float) -> _Length:
    """The same from the packets; from the headers if they count as many.

    Rates that are only estimated are wrong for live captures and screen recordings.
    """
    source = open_container(uri)
    base = source.stream.time_base
    found, others_end_s = _packets(source)
    promised_s = said_s if said_s - others_end_s >= _UNSAID_S else 0.0  # by the video's headers, not by sound
    if said_s and stream.frames == len(found):
        return _Length(said_s, stream.frames, _rate(stream) or stream.frames / said_s)
    timed = sorted((tick, length) for tick, length in found if tick is not None)
    ticks = sorted({tick for tick, _ in timed})
    if len(ticks) < 2:
        duration_s, n_frames = float(sum(length for _, length in found) * base) or said_s, len(found)
        fps = n_frames / duration_s if duration_s else _rate(stream)
        return _Length(duration_s, n_frames or None, fps, _unbacked(promised_s, duration_s))
    last = max(timed[-1][1], min(ticks[-1] - ticks[-2], int(LAST_STANDS_S / base)))
    counted_s = float((ticks[-1] - ticks[0] + last) * base)
    has_gap = said_s and counted_s - said_s >= _UNSAID_S
    fps, header = (len(ticks) - 1) / float((ticks[-1] - ticks[0]) * base), _rate(stream)
    return _Length(
        said_s if has_gap else min(counted_s, _LONGEST_S),
        len(ticks),
        header if header and abs(fps / header - 1) < 0.02 else fps,
        _unbacked(promised_s, counted_s),
    )


def _unbacked(promised_s: float, counted_s: float) -> float | None:
    """The promised duration, if packets end long before it."""
    return promised_s if promised_s - counted_s >= _UNSAID_S else None


def _packets(source: Source) -> tuple[list[tuple[int | None, int]], float]:
    """When each whole packet is shown and for how long, in ticks, up to where the container breaks.

    And when the last packet of the other tracks ends, in seconds from the beginning.
    """
    by_order = source.container.format.name == "avi"  # its timestamps are those of decoding
    found: list[tuple[int | None, int]] = []
    others_end_s = 0.0
    with source.container as container, contextlib.suppress(av.error.FFmpegError):
        begins_s = (
            0.0 if container.format.name == "matroska,webm" else (container.start_time or 0) / av.time_base
        )
        for packet in container.demux():
            if not packet.size or packet.is_corrupt or packet.is_discard:
                continue
            if packet.stream_index == source.stream.index:
                found.append((packet.dts if by_order else packet.pts, packet.duration or 0))
            elif packet.pts is not None:
                ends_s = float((packet.pts + (packet.duration or 0)) * packet.time_base) - begins_s
                others_end_s = max(others_end_s, ends_s)
    return found, others_end_s


def _damaged_end(container: Any, stream: Any, duration_s: float) -> bool:
    """Whether the last second has a packet cut short, which decord would show as if it were good."""
    container.seek(round(max(duration_s - 1, 0) * av.time_base) + (container.start_time or 0))
    try:
        return any(packet.is_corrupt for packet in container.demux(stream))
    except av.error.FFmpegError:
        return True


def _decord_agrees(uri: str, duration_s: float) -> bool:
    """Whether decord opens the whole file and shows the same frames as PyAV."""
    try:
        return READERS["decord"](uri).end_s + HOLD_S >= duration_s
    except Exception:  # whatever it was, PyAV has opened the file
        return False
