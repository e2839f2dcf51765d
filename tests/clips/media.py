"""Small real media files with known content."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


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
) -> Path:
    """`frames` (H W 3) as H.264; at 10 fps where no times are given."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": str(gop)})
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = (times_ms[i] if times_ms else 100 * i), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noisy_video(path: Path, *, seconds: float = 4, faststart: bool = False) -> Path:
    """Hard to compress, so that cutting off bytes cuts off frames."""
    random = np.random.default_rng(0)
    frames = [random.integers(0, 255, (96, 128, 3), np.uint8) for _ in range(round(seconds * 10))]
    return write_video(path, frames, faststart=faststart)


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
