"""What a media file is."""

from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vitascope import storage
from vitascope.clips import tars
from vitascope.clips.colour import is_plain, to_rgb
from vitascope.clips.isolate import ChildDied, isolated
from vitascope.clips.pictures import open_picture
from vitascope.clips.readers import HOLD_S, INDEXED, READERS, open_container
from vitascope.clips.resize import View, displayed
from vitascope.ledger import Reason, Rejected
from vitascope.stores.patience import Unavailable

_LONGEST_S = 100 * 86_400.0  # a header that says more lies
_DECORD_LATEST_S = 3 * 3600.0  # its timestamps are float32, and there 1 ms coarse


def probe(uri: str, *, timeout_s: float = 60.0, may_be_decords: bool = True) -> dict[str, Any]:
    """The media columns of records.VIDEOS, kind to decoder, after decoding a video's first frame.

    Of a picture also `detail`: what is wrong with it although it can be used, or None.

    Width and height are as displayed: upright, with square pixels. Duration runs from the first frame's
    beginning to the last one's end.

    Args:
        may_be_decords: decord is tried, which reads remote files whole; else the decoder is another.

    Raises:
        Rejected: UNREADABLE, EMPTY_FILE, NO_VIDEO_STREAM or DECODE_FAILED.
        Unavailable: the store does not answer.
    """
    for with_decord in (True, False) if may_be_decords else (False,):
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
        raise Rejected(Reason.UNREADABLE, f"{type(error).__name__}: {error}") from None


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
    container, stream = open_container(uri)
    with container:
        frame = _first_frame(container, stream)
        turn = _clockwise_deg(frame.rotation)
        coded = frame.height, frame.width
        shown = displayed(coded, float(stream.sample_aspect_ratio or 1))
        height, width = shown if turn % 180 == 0 else shown[::-1]
        fps = float(stream.average_rate or stream.guessed_rate or 0) or None
        duration_s = _duration_s(container, stream)
        row = {
            "kind": "video",
            "codec": stream.codec_context.name,
            "width": width,
            "height": height,
            "rotation_deg": turn,
            "fps": fps,
            "duration_s": duration_s,
            "n_frames": stream.frames or (round(duration_s * fps) if fps else None),
        }
        may = with_decord and container.format.name in INDEXED
        may = may and turn == 0 and shown == coded and is_plain(frame)
        longest_s = max(duration_s, (container.duration or 0) / av.time_base)
        may = may and (frame.time or 0) + longest_s <= _DECORD_LATEST_S
        may = may and not _damaged_end(container, stream, duration_s)
    first = to_rgb(VideoReformatter(), frame, View(1, coded))
    return row | {"decoder": "decord" if may and _decord_agrees(uri, first, duration_s) else "pyav"}


def _first_frame(container: Any, stream: Any) -> av.VideoFrame:
    try:
        return next(container.decode(stream))
    except (StopIteration, av.error.FFmpegError) as error:
        why = str(error) or "it ends before the first"
        raise Rejected(Reason.DECODE_FAILED, f"no frame can be decoded ({why})") from None


def _clockwise_deg(rotation: int) -> int:
    """PyAV's counter-clockwise display rotation as clockwise quarter turns; none for a matrix of nonsense."""
    return -round(rotation / 90) * 90 % 360 if abs(rotation) <= 360 else 0


def _duration_s(container: Any, stream: Any) -> float:
    """What the headers say where it can be, else what the packets do."""
    said_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
    if not said_s and container.duration:
        counted_s = container.start_time or 0 if container.format.name == "matroska,webm" else 0
        said_s = (container.duration - counted_s) / av.time_base  # Matroska's duration counts from 0
    if 0 < said_s <= _LONGEST_S:
        return said_s
    ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
    shown_s = float((max(ends, default=0) - (stream.start_time or 0)) * stream.time_base)
    return min(max(shown_s, 0.0), _LONGEST_S)


def _damaged_end(container: Any, stream: Any, duration_s: float) -> bool:
    """Whether the last second has a packet cut short, which decord would show as if it were good."""
    container.seek(round(max(duration_s - 1, 0) * av.time_base) + (container.start_time or 0))
    try:
        return any(packet.is_corrupt for packet in container.demux(stream))
    except av.error.FFmpegError:
        return True


def _decord_agrees(uri: str, first: np.ndarray, duration_s: float) -> bool:
    """Whether decord opens the whole file and shows its first frame (H W 3) as PyAV does, to the last bit."""
    try:
        reader = READERS["decord"](uri)
        same = np.array_equal(next(reader.pictures(np.zeros(1), [View(1)]))[0], first)
        return same and reader.end_s + HOLD_S >= duration_s
    except Exception:  # whatever it was, PyAV has opened the file
        return False
