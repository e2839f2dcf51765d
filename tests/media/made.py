"""Small real media files with known content."""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vitascope.media.clip import Clip
from vitascope.media.geometry import Size

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@contextmanager
def encoding(path: Path, **how: Any) -> Iterator[Any]:
    """A container open for writing, as `av.open` gives it.

    As root, SVT-AV1 makes the thread that opens it a real-time one of the highest priority (SCHED_FIFO 99),
    and so all processes that are started from there, beside which nothing else runs. That is undone.
    """
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        with av.open(str(path), "w", **how) as container:
            yield container
    finally:
        os.sched_setscheduler(0, policy, priority)


def corners_frame(width: int, height: int) -> np.ndarray:
    """A frame (H W 3) with red, green / blue, white quarters."""
    frame = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    frame[:h, :w], frame[:h, w:], frame[h:, :w], frame[h:, w:] = RED, GREEN, BLUE, WHITE
    return frame


def corner_names(frame: np.ndarray) -> str:
    """The colours of a frame's quarters, like RGBW, read from their middles."""
    height, width = frame.shape[:2]
    spots = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return "".join("W" if frame[s].min() > 150 else "RGB"[int(frame[s].argmax())] for s in spots)


def grey_level(frame: np.ndarray) -> int:
    return round(float(frame.mean()))


def corners_video(
    path: Path, *, size: tuple[int, int] = (96, 64), seconds: float = 2, rotation: int = 0
) -> Path:
    """A video of `corners_frame` at 10 fps; `rotation` counter-clockwise degrees in its metadata."""
    frames = [corners_frame(*size)] * round(seconds * 10)
    return write_video(path, frames, rotation=rotation)


def timed_video(
    path: Path, times_ms: Sequence[int], *, size: tuple[int, int] = (64, 64), **how: object
) -> Path:
    """A video whose i-th frame is grey of level 20 + 10 * i and is shown from times_ms[i]."""
    frames = [np.full((size[1], size[0], 3), 20 + 10 * i, np.uint8) for i in range(len(times_ms))]
    return write_video(path, frames, times_ms=times_ms, **how)  # type: ignore[arg-type]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    gop: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """`frames` (H W 3) as H.264 or another `codec`; at 10 fps where no times are given.

    `aspect`: of the pixels, width over height.
    """
    movflags = {"movflags": "faststart"} if faststart else {}
    with encoding(path, options=movflags) as container:
        own = {"crf": "10", "g": str(gop)} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=10, options=own | (options or {}))
        stream.pix_fmt = pix_fmt
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.time_base = Fraction(1, 10 if codec == "mpeg4" else 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = (times_ms[i] if times_ms else 100 * i), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def coloured_video(
    path: Path, colour: Sequence[int], tags: str, *, size: tuple[int, int] = (96, 64), full: bool = False
) -> Path:
    """A video of one colour (R G B) by the matrix in `tags`, like `bt709` (x264's names), or by none."""
    matrix = {"bt709": "ITU709", "smpte170m": "ITU601", "bt2020nc": "BT2020"}.get(tags, "ITU709")
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
        format="yuv420p",
        dst_colorspace=matrix,
        dst_color_range="JPEG" if full else "MPEG",
        interpolation="ACCURATE_RND",
    )
    said = ([f"colormatrix={tags}"] if tags else []) + (["fullrange=on"] if full else [])
    return write_yuv(path, [frame] * 10, "libx264", {"x264-params": ":".join(said), "crf": "4"})


def hdr_video(path: Path, codes: Sequence[float], transfer: str) -> Path:
    """A 10-bit BT.2020 HEVC video of one colour; `codes` R G B of 0 to 1, `transfer` in x265's names."""
    pixels = (np.tile(np.array(codes), (64, 96, 1)) * 65535).astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb48le").reformat(
        format="yuv420p10le", dst_colorspace="BT2020", dst_color_range="MPEG", interpolation="ACCURATE_RND"
    )
    tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:log-level=none"
    return write_yuv(path, [frame] * 10, "libx265", {"x265-params": tags, "crf": "4"})


def write_yuv(path: Path, frames: Sequence[av.VideoFrame], codec: str, options: dict[str, str]) -> Path:
    """Frames as they are, at 10 fps."""
    with encoding(path) as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.pix_fmt = frames[0].format.name
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.codec_context.time_base = Fraction(1, 10)
        for i, frame in enumerate(frames):
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def changing_video(path: Path, codec: str, parts: Sequence[Sequence[np.ndarray]], *, rate: int = 25) -> Path:
    """Parts, each of frames (H W 3) of one size, one after the other in one stream."""
    packets, first = [], 0
    with encoding(path) as container:
        stream = container.add_stream(codec, rate=rate)
        for frames in parts:
            encoder = av.CodecContext.create(codec, "w") if packets else stream.codec_context
            encoder.height, encoder.width = frames[0].shape[:2]
            encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", rate, Fraction(1, rate)
            encoder.bit_rate = 4_000_000
            for number, pixels in enumerate(frames, first):
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                packets += encoder.encode(frame)
            packets += encoder.encode()
            first += len(frames)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    return path


def two_descriptions(path: Path, parts: Sequence[Path]) -> Path:
    """Two mp4s of one codec at 10 fps as one track with a description, and so parameter sets, for each."""
    with encoding(path) as container, av.open(str(parts[0])) as first, av.open(str(parts[1])) as second:
        stream = container.add_stream_from_template(first.streams.video[0])
        n_before = 0
        for source in (first, second):
            base = source.streams.video[0].time_base
            packets = [packet for packet in source.demux(video=0) if packet.size]
            for packet in packets:
                packet.stream = stream
                packet.pts += round(n_before / 10 / base)
                packet.dts += round(n_before / 10 / base)
                container.mux(packet)
            n_before += len(packets)
        n_first = n_before - len(packets)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    described = b"".join(_box_in(part.read_bytes(), b"stsd")[16:] for part in parts)
    made = {
        b"stsd": struct.pack(">II", 0, 2) + described,
        b"stsc": struct.pack(">8I", 0, 2, 1, 1, 1, n_first + 1, 1, 2),
        b"stco": struct.pack(f">II{len(places)}I", 0, len(places), *places),
    }
    content = path.read_bytes()
    index = _box_in(content, b"moov")
    path.write_bytes(content.removesuffix(index) + _replaced(index, made))
    return path


def _box_in(content: bytes, kind: bytes) -> bytes:
    at = content.index(kind) - 4
    return content[at : at + int.from_bytes(content[at : at + 4], "big")]


def _replaced(boxes: bytes, made: dict[bytes, bytes]) -> bytes:
    """The same boxes with other contents for some kinds, also for those within."""
    out, at = b"", 0
    while at < len(boxes):
        size, kind = struct.unpack_from(">I4s", boxes, at)
        inner = boxes[at + 8 : at + size]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            inner = _replaced(inner, made)
        inner = made.get(kind, inner)
        out += struct.pack(">I4s", 8 + len(inner), kind) + inner
        at += size
    return out


def noisy_video(path: Path, *, seconds: float = 4, **how: Any) -> Path:
    """Hard to compress, so that cutting off bytes cuts off frames."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(round(seconds * 10))]
    return write_video(path, frames, **how)


def moving_picture(path: Path, durations_ms: Sequence[int]) -> Path:
    """A GIF, APNG or animated WebP whose i-th frame is grey of level 20 + 10 * i."""
    frames = [Image.fromarray(np.full((64, 80, 3), 20 + 10 * i, np.uint8)) for i in range(len(durations_ms))]
    kind = {".apng": "PNG", ".gif": "GIF", ".webp": "WEBP"}[path.suffix]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    later = {"save_all": True, "append_images": frames[1:], "duration": list(durations_ms)}
    frames[0].save(path, format=kind, **later, **lossless)
    return path


def damaged(path: Path, source: Path, *, seed: int, n_places: int = 3) -> Path:
    """`source` with bytes replaced at places of its middle."""
    random = np.random.default_rng(seed)
    content = bytearray(source.read_bytes())
    for at in random.integers(len(content) // 10, len(content) * 9 // 10, n_places):
        content[at : at + 8] = random.bytes(8)
    path.write_bytes(content)
    return path


def truncated(path: Path, source: Path, share: float) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def tone(path: Path) -> Path:
    """One second of sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for start in range(0, 16_000, 1000):
            wave = np.sin(np.arange(start, start + 1000) / 6).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_clip(
    path: Path | str, *, size: Size | None = None, timeout_s: float = 60.0, **what: Any
) -> np.ndarray:
    """The frames of the clip of a file that `what` describes, as `Clip` has it."""
    return Clip(str(path), **what).frames(size=size, timeout_s=timeout_s)
