"""Turn frames into an mp4, png or jpeg."""

import io
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

# x264's bytes depend on the number of threads; it is fixed, so that the same frames give the same file
# anywhere.
_THREADS = 4
# 18 is x264's visually lossless; mpeg4's quantizer runs from 2 (best) to 31.
# x264's macroblock tree is off: now and then it makes other bytes of small frames (1 run in 40 at 64x48).
_ENCODERS = {
    "libx264": {"crf": "18", "preset": "medium", "x264-params": "mbtree=0"},
    "mpeg4": {"qmin": "2", "qmax": "4"},
}
# sRGB's primaries are BT.709's, and players show BT.709's transfer as screens show sRGB.
_BT709 = {
    "dst_colorspace": Colorspace.ITU709,
    "dst_color_range": ColorRange.MPEG,
    "dst_color_primaries": ColorPrimaries.BT709,
    "dst_color_trc": ColorTrc.BT709,
}
# Swscale's fast path is a level off for some colours.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def encoder() -> str:
    """The video encoder used: H.264 if this machine's PyAV has it, else MPEG-4 part 2."""
    return next(name for name in _ENCODERS if name in av.codecs_available)


def mp4_bytes(frames: Iterable[np.ndarray], fps: float) -> bytes:
    """The content that `write_mp4` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_mp4(path, frames, fps)
        return path.read_bytes()


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes an mp4 of exactly these frames, each uint8 (H, W, 3) with even H and W, at exactly `fps`.

    They are encoded one by one, so neither they nor the file need to be in memory as a whole. The index comes
    first, so that the file plays while it loads. The same frames give the same bytes.

    Raises:
        ValueError: there is no frame, or one of another type or size.
    """
    frames = iter(frames)
    if (first := next(frames, None)) is None:
        raise ValueError("a video has at least one frame, got none")
    _check(first, first.shape)
    rate = Fraction(fps).limit_denominator(1001)
    # Moving the index to the front reads the file back, which libav can do with a real file only.
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = _stream(container, first.shape[:2], rate)
        for index, pixels in enumerate(chain([first], frames)):
            _check(pixels, first.shape)
            frame = yuv(pixels)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def yuv(pixels: np.ndarray) -> av.VideoFrame:
    """The frame to encode, BT.709 in limited range, of pixels (H, W, 3) uint8, sRGB."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(format="yuv420p", interpolation=_EXACT, **_BT709)


def tag(context: Any) -> None:
    """Tags an encoder's stream, and its mp4, with the colours that `yuv` makes."""
    context.pix_fmt = "yuv420p"
    context.colorspace = Colorspace.ITU709
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    context.color_range = ColorRange.MPEG


def png_bytes(frame: np.ndarray) -> bytes:
    """A png of one frame, uint8 (H, W, 3)."""
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "PNG")
    return sink.getvalue()


def jpeg_bytes(frame: np.ndarray, max_side_px: int) -> bytes:
    """A jpeg of one frame, uint8 (H, W, 3), scaled down with antialiasing if a side is longer."""
    picture, sink = Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    picture.save(sink, "JPEG", quality=90)  # one of 512 pixels takes some 50 KB
    return sink.getvalue()


def write_media(stem: Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Writes frames (H, W, 3) to `stem` and a suffix: .png if it is a single one, else .mp4."""
    rest = iter(frames)
    beginning = list(islice(rest, 2))
    if len(beginning) == 1:
        path = stem.with_name(stem.name + ".png")
        path.write_bytes(png_bytes(beginning[0]))
    else:
        path = stem.with_name(stem.name + ".mp4")
        write_mp4(path, chain(beginning, rest), fps)
    return path


def _stream(container: Any, height_width: tuple[int, ...], rate: Fraction) -> Any:
    name = encoder()
    stream = container.add_stream(name, rate=rate, options=_ENCODERS[name])
    stream.height, stream.width = height_width
    context = stream.codec_context
    context.thread_count = _THREADS
    context.time_base = 1 / rate
    tag(context)
    return stream


def _check(pixels: np.ndarray, shape: tuple[int, ...]) -> None:
    even = pixels.ndim == 3 and pixels.shape[0] % 2 == 0 and pixels.shape[1] % 2 == 0
    if pixels.dtype != np.uint8 or not even or pixels.shape[-1] != 3:
        expected = "uint8 frames (H, W, 3) with even H and W"
        raise ValueError(f"expected {expected}, got {pixels.dtype} {pixels.shape}")
    if pixels.shape != shape:
        raise ValueError(f"expected frames of one size, got {pixels.shape} after {shape}")
