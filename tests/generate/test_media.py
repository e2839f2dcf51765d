"""Conditioning frames read from real files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.media import read_given
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.media.mp4 import mp4_bytes

PATCHING = Patching(STRIDES["dct"], patch=2)
Make = Callable[..., Request]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """a.mp4, 24 frames each of one brightness, 5 more than before; a.png; text.mp4, which is none."""
    levels = np.arange(24, dtype=np.uint8)[:, None, None, None] * 5 + 40
    (tmp_path / "a.mp4").write_bytes(mp4_bytes(np.broadcast_to(levels, (24, 96, 128, 3)), 8))
    Image.new("RGB", (128, 96), (200, 100, 50)).save(tmp_path / "a.png")
    (tmp_path / "text.mp4").write_text("no video")
    return tmp_path


def brightness(frames: np.ndarray) -> list[int]:
    """Each frame's position in a.mp4."""
    return [round((frame.mean() - 40) / 5) for frame in frames]


def test_an_image(request_of: Make, media: Path) -> None:
    place, frames = read_given(request_of(mode="image_to_video", image=str(media / "a.png")), PATCHING)
    assert place.given.tolist() == [True, False, False]
    assert frames.shape == (1, 48, 64, 3)
    assert frames[0, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("suffix", ["heic", "gif", "tif", "avif", "jp2"])
def test_an_image_of_any_format(request_of: Make, tmp_path: Path, suffix: str) -> None:
    pillow_heif.register_heif_opener()
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (128, 96), (200, 100, 50)).save(path)
    _, frames = read_given(request_of(mode="image_to_video", image=str(path)), PATCHING)
    assert frames.shape == (1, 48, 64, 3)
    assert np.abs(frames[0, 0, 0].astype(int) - (200, 100, 50)).max() <= 3


def test_extending_forwards_takes_the_end_and_backwards_the_beginning(request_of: Make, media: Path) -> None:
    video = {"video": str(media / "a.mp4"), "seconds": 17 / 8}
    assert brightness(read_given(request_of(mode="extend_forward", **video), PATCHING)[1]) == [
        19,
        20,
        21,
        22,
        23,
    ]
    assert brightness(read_given(request_of(mode="extend_backward", **video), PATCHING)[1]) == list(range(8))


def test_joining_takes_both_in_that_order(request_of: Make, media: Path) -> None:
    video = str(media / "a.mp4")
    _, frames = read_given(request_of(mode="join", video=video, video_after=video, seconds=17 / 8), PATCHING)
    assert brightness(frames) == [23, 0, 1, 2, 3]


def test_frames_are_picked_at_the_requests_fps(request_of: Make, media: Path) -> None:
    request = request_of(mode="extend_forward", video=str(media / "a.mp4"), fps=4, seconds=17 / 4)
    assert brightness(read_given(request, PATCHING)[1]) == [14, 16, 18, 20, 22]


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({"mode": "image_to_video", "image": "none.png"}, Reason.MEDIA_MISSING, "given as 'image'"),
        (
            {"mode": "image_to_video", "image": "a.mp4"},
            Reason.INVALID_REQUEST,
            "expects an image, got the video",
        ),
        (
            {"mode": "extend_forward", "video": "a.png"},
            Reason.INVALID_REQUEST,
            "expects a video, got the image",
        ),
        ({"mode": "extend_forward", "video": "text.mp4"}, Reason.UNREADABLE, "given as 'video'"),
    ],
)
def test_bad_media_are_refused_by_name(
    request_of: Make, media: Path, fields: dict, reason: Reason, said: str
) -> None:
    located = {k: str(media / v) if k != "mode" else v for k, v in fields.items()}
    with pytest.raises(Rejected) as refused:
        read_given(request_of(**located), PATCHING)
    assert refused.value.reason == reason
    assert str(media) in refused.value.detail
    assert said in refused.value.detail
