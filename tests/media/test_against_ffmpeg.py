"""Frames as ffmpeg's own program shows them, by its rules of turning, choosing tracks and placing in time."""

import subprocess
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest

from media.made import encoding, read_clip
from vitascope.media.probe import probe

N_FRAMES, RATE, SIZE = 24, 8, (96, 64)
Maker = Callable[[Path], None]


def scene(k: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3): red, green and blue corners over a ramp, and the number k as eight bars."""
    width, height = size
    frame = np.repeat(np.linspace(40, 200, width)[None], height, 0)[..., None].repeat(3, 2)
    side = min(size) // 4
    frame[:side, :side], frame[:side, -side:], frame[-side:, :side] = (
        (220, 20, 20),
        (20, 200, 20),
        (20, 20, 220),
    )
    bar = width // 10
    for bit in range(8):
        frame[height * 3 // 8 : height * 5 // 8, bar * (bit + 1) : bar * (bit + 2) - 2] = (
            235 if k >> bit & 1 else 20
        )
    return frame.astype(np.uint8)


def write(
    path: Path,
    codec: str = "libx264",
    *,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    form: str | None = None,
    size: tuple[int, int] = SIZE,
    matrix: tuple[int, int, int, int] | None = None,
    aspect: Fraction | None = None,
    times_ms: list[int] | None = None,
    movflags: str = "",
    rate: int = RATE,
) -> None:
    container_options = {"movflags": movflags} if movflags else {}
    with encoding(path, format=form, options=container_options) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix:
            a, b, c, d = (v << 16 for v in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for k in range(len(times_ms or range(N_FRAMES))):
            frame = av.VideoFrame.from_ndarray(scene(k, size), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (
                (times_ms[k], Fraction(1, 1000)) if times_ms else (k, Fraction(1, rate))
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


MATRICES = {
    "as-coded": (1, 0, 0, 1),
    "hflip": (-1, 0, 0, 1),
    "vflip": (1, 0, 0, -1),
    "rot180": (-1, 0, 0, -1),
    "transpose": (0, 1, 1, 0),
    "rot90": (0, 1, -1, 0),
    "rot270": (0, -1, 1, 0),
    "transverse": (0, -1, -1, 0),
}
_X265 = "log-level=none:bframes=3:b-adapt=0:keyint=10:min-keyint=1:scenecut=0"
_X264 = {"g": "8", "bf": "3"}
_FAST = {"deadline": "realtime", "cpu-used": "8"}
_VARIED_MS = np.cumsum([0, *([40] * 5), 700, 20, 20, 333, *([33] * 8), 1000, 50, 60]).tolist()


def _makers() -> dict[str, Maker]:
    made: dict[str, Maker] = {}
    for (name, matrix), suffix in product(MATRICES.items(), ("mp4", "mov", "mkv")):
        made[f"{name}.{suffix}"] = partial(write, matrix=matrix)
    for name, ratio in product(("hflip", "transpose", "rot90"), ("4/3", "1/2")):
        how = {"matrix": MATRICES[name], "aspect": Fraction(ratio)}
        made[f"{name}-{ratio.replace('/', 'to')}.mp4"] = partial(write, **how)
    made["open.hevc.mp4"] = partial(write, codec="libx265", options={"x265-params": _X265 + ":open-gop=1"})
    made["open.hevc.mkv"] = made["open.hevc.mp4"]
    made["closed.hevc.mp4"] = partial(write, codec="libx265", options={"x265-params": _X265 + ":open-gop=0"})
    made["open.hevc.ts"] = made["open.hevc.mp4"]
    for suffix in ("mp4", "mkv", "ts"):
        made[f"open.{suffix}"] = partial(write, options=_X264 | {"x264-params": "open-gop=1:scenecut=0"})
        made[f"refresh.{suffix}"] = partial(write, options={"x264-params": "intra-refresh=1:keyint=8"})
        made[f"pyramid.{suffix}"] = partial(
            write, options={"bf": "7", "x264-params": "b-adapt=0:b-pyramid=normal"}
        )
    made["fragments.mp4"] = partial(write, options=_X264, movflags="frag_keyframe+empty_moov")
    made["negative.mp4"] = partial(write, options=_X264, movflags="negative_cts_offsets")
    for suffix in ("mp4", "mkv"):
        made[f"varied.{suffix}"] = partial(write, options=_X264, times_ms=_VARIED_MS)
    made["mpeg2.mpg"] = partial(write, codec="mpeg2video", options={"bf": "2", "g": "9"}, rate=25)
    made["mpeg2.ts"] = made["mpeg2.mpg"]
    made["mpeg4.avi"] = partial(write, codec="mpeg4", options={"bf": "2"})
    made["prores.mov"] = partial(write, codec="prores_ks", pix_fmt="yuv422p10le")
    made["ffv1.mkv"] = partial(write, codec="ffv1", pix_fmt="yuv444p")
    made["vp8.webm"] = partial(write, codec="libvpx", options=_FAST)
    made["vp9.webm"] = partial(write, codec="libvpx-vp9", options=_FAST)
    made["av1.mp4"] = partial(write, codec="libsvtav1", options={"preset": "12"})
    made["raw.h264"] = partial(write, form="h264")
    made["raw.hevc"] = partial(write, codec="libx265", form="hevc", options={"x265-params": _X265})
    made["raw.mjpeg"] = partial(write, codec="mjpeg", pix_fmt="yuvj420p", form="mjpeg")
    made["raw.y4m"] = partial(write, codec="wrapped_avframe", form="yuv4mpegpipe")
    made["raw.m2v"] = partial(write, codec="mpeg2video", form="mpeg2video", rate=25)
    made["raw.m4v"] = partial(write, codec="mpeg4", form="m4v")
    return made


MAKERS = _makers()


def shown_by_ffmpeg(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The times (F,) of all frames, from the first one's, and the frames (F H W 3) at `size`."""
    height, width = size
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "info", "-i", str(path), "-fps_mode", "passthrough"]
    command += [
        "-vf",
        f"scale={width}:{height}:flags=bilinear+accurate_rnd+full_chroma_int,showinfo",
        "-f",
        "rawvideo",
    ]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True)
    lines = [line for line in done.stderr.decode().splitlines() if "pts_time:" in line]
    times_s = np.array([float(line.split("pts_time:")[1].split()[0]) for line in lines])
    return times_s - times_s[0], np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-6)))


@pytest.mark.parametrize("name", MAKERS)
def test_every_frame_is_where_and_as_ffmpeg_shows_it(tmp_path: Path, name: str) -> None:
    """Each alone after a seek, from the last to the first: the frame of that very number."""
    path = tmp_path / name
    MAKERS[name](path)
    facts = probe(str(path))
    times_s, frames = shown_by_ffmpeg(path, (facts.height, facts.width))
    assert facts.n_frames == len(frames)
    middles_s = times_s + np.diff(times_s, append=times_s[-1] + 0.02) / 2
    for k in range(len(frames) - 1, -1, -1):
        (ours,) = read_clip(str(path), start_s=float(middles_s[k]), decoder="pyav")
        assert ours.shape == frames[k].shape
        assert psnr(ours, frames[k]) > 30, k
        others = [psnr(ours, other) for other in frames]
        assert np.argmax(others) == k
