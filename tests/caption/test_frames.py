"""The pictures of a clip that a model is shown."""

import io
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vitascope import storage
from vitascope.caption.frames import pictures
from vitascope.caption.settings import CaptionSettings
from vitascope.media.clip import Clip
from vitascope.media.tars import list_members


def clip(n_frames: int, **more: Any) -> Clip:
    at = {"uri": "a.mp4", "version": "1", "start_s": 3.0, "fps": 8.0, "decoder": "pyav"}
    return Clip(**at | {"n_frames": n_frames} | more)


@pytest.mark.parametrize(
    ("in_clip", "asked", "expected_s"),
    [
        (17, 3, [3.0, 4.0, 5.0]),
        (9, 9, [3.0 + i / 8 for i in range(9)]),
        (3, 8, [3.0, 3.125, 3.25]),
        (17, 1, [4.0]),
        (1, 4, [3.0]),
        (2, 1, [3.125]),
    ],
)
def test_frames_lie_evenly_from_first_to_last(in_clip: int, asked: int, expected_s: list[float]) -> None:
    sampled = clip(in_clip).sampled(asked)
    picked = sampled.start_s + np.arange(sampled.n_frames) / sampled.fps
    np.testing.assert_allclose(picked, expected_s)
    assert picked[-1] <= 3.0 + (in_clip - 1) / 8 + 1e-9


def test_pictures_are_scaled_down_and_never_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = np.zeros((2, 200, 400, 3), np.uint8)
    seen[1, :, :, 0] = 255
    monkeypatch.setattr(Clip, "frames", lambda *_, **__: seen)
    for limit, size in ((100, (100, 50)), (1000, (400, 200))):
        made = pictures(clip(2, decoder="decord"), CaptionSettings(frames=2, max_side_px=limit), timeout_s=60)
        black, red = (Image.open(io.BytesIO(content)) for content in made)
        assert black.size == red.size == size
        assert black.getpixel((5, 5)) == (0, 0, 0)
        red_pixel = red.getpixel((5, 5))
        assert np.allclose(red_pixel, (255, 0, 0), atol=3)  # type: ignore[arg-type]


def test_a_video_within_a_tar(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for level in range(20, 220, 10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(video, "000.mp4")
    (member,) = list_members(str(tmp_path / "a.tar")).members
    found = {"uri": member.uri, "version": storage.version(member.tar)}
    row = clip(17, **found, start_s=0.0, decoder="decord")
    made = pictures(row, CaptionSettings(frames=3, max_side_px=48), timeout_s=30)
    shown = [Image.open(io.BytesIO(content)) for content in made]
    assert [picture.size for picture in shown] == [(48, 32)] * 3
    levels = [np.asarray(picture).mean() for picture in shown]
    assert np.allclose(levels, [20, 100, 180], atol=3)
