"""Facts and features of files, good and bad ones."""

import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pytest

from media import damage
from media.made import (
    changing_video,
    corner_names,
    corners_frame,
    corners_video,
    noisy_video,
    read_clip,
    truncated,
    write_video,
)
from vitascope import storage
from vitascope.clips.analysis.derive import clips_of
from vitascope.clips.analysis.scan import scan
from vitascope.clips.analysis.series import CATALOG, of_row
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Rejected


def item(path: Path) -> Item:
    return Item(str(path), path.name, "1", path.stat().st_size if path.exists() else 0)


def test_a_row_holds_a_number_of_every_series_for_every_frame_of_the_grid(tmp_path: Path) -> None:
    row = scan(item(noisy_video(tmp_path / "a.mkv", seconds=9)), ClipsSettings())
    assert (row["status"], row["again"], row["kind"]) == ("ok", False, "video")
    series = of_row(row)
    n = 9 * 8 + 1  # two stretches
    assert {len(values) for values in series.values()} <= {n, n - 1}
    assert series["copy_hashes"].shape[1] == 7
    assert np.isfinite(series["brightness"]).all()
    table = pa.Table.from_pylist([row], schema=CATALOG)
    storage.put_table(str(tmp_path / "row.parquet"), table)
    (read,) = storage.rows(str(tmp_path / "row.parquet"))
    for name, values in of_row(read).items():
        np.testing.assert_array_equal(values, series[name])


def test_series_do_not_depend_on_where_stretches_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = item(noisy_video(tmp_path / "a.mkv", seconds=5))
    whole = of_row(scan(file, ClipsSettings()))
    monkeypatch.setattr("vitascope.clips.analysis.scan.STRETCH_FRAMES", 7)
    for name, values in of_row(scan(file, ClipsSettings())).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


def test_a_file_cut_short_has_the_frames_it_has(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    truncated(path, noisy_video(tmp_path / "a.mp4", faststart=True), 0.6)
    row = scan(item(path), ClipsSettings())
    assert row["status"] == "ok"
    assert len(of_row(row)["brightness"]) == int(row["duration_s"] * 8) + 1 < 4 * 8


def cut_short(name: str, folder: Path) -> bytes:
    content = noisy_video(folder / f"whole-{name}", faststart=True).read_bytes()
    return content[: len(content) * 6 // 10]


def promising(name: str, folder: Path) -> bytes:
    """40 frames, 100 s by a header: of an AVI 1000 frames."""
    frames = [np.full((64, 96, 3), 20 + 5 * k, np.uint8) for k in range(40)]
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    content = write_video(folder / f"whole-{name}", frames, codec=codec, faststart=True).read_bytes()
    if name.endswith("mkv"):
        return damage.written(content, b"\x44\x89\x88", 3, struct.pack(">d", 100_000))
    if name.endswith("mp4"):
        return damage.written(content, b"stts", 12, struct.pack(">I", 1000))
    content = damage.written(content, b"avih", 24, struct.pack("<I", 1000))
    return damage.written(content, b"strh", 40, struct.pack("<I", 1000))


def decoded(path: Path) -> int:
    """How many frames PyAV decodes, without the one of a packet that is cut short."""
    with av.open(str(path)) as container:
        return sum(len(p.decode()) for p in container.demux(video=0) if not p.is_corrupt)


@pytest.mark.parametrize("make", [cut_short, promising])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_the_table_counts_the_frames_that_are_in_the_file(tmp_path: Path, name: str, make: Any) -> None:
    """And the row has the number that its headers promise."""
    path = tmp_path / name
    path.write_bytes(make(name, tmp_path))
    row = scan(item(path), ClipsSettings())
    n_frames = decoded(path)
    assert row["n_frames"] == n_frames <= 40
    assert row["duration_s"] == pytest.approx(n_frames / 10, abs=0.01)
    good = [clip for clip in clips_of(row, ClipsSettings()) if clip.is_good]
    assert max(clip.span.end_s for clip in good) <= row["duration_s"]
    says_nothing = {
        ("a.avi", cut_short),
        ("a.mp4", promising),
    }  # the index is lost; the duration stands elsewhere
    assert (row["said_s"] is None) == ((name, make) in says_nothing)
    if row["said_s"]:
        assert row["said_s"] == pytest.approx(100 if make is promising else 4, rel=0.3)
        assert row["detail"].startswith(f"it should last {row['said_s']:.2f} s")
        assert clips_of(row, ClipsSettings())[-1].span.end_s == pytest.approx(row["said_s"])


def with_sound(path: Path, sound_s: float, delay_s: float = 0) -> Path:
    """4 s of video, which may begin late, and sound."""
    picture = ["-itsoffset", str(delay_s), "-f", "lavfi", "-i", "testsrc=d=4:r=25:s=96x64"]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        *picture,
        "-f",
        "lavfi",
        "-i",
        f"sine=d={sound_s}",
    ]
    subprocess.run([*command, str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("suffix", "delay_s"),
    [(suffix, 0) for suffix in ("mp4", "mkv", "webm", "ts", "flv", "wmv", "avi", "mpg")]
    + [(suffix, 3) for suffix in ("mp4", "mkv", "webm", "ts", "flv")],  # others repeat the first frame
)
def test_sound_that_goes_on_longer_promises_no_frames(tmp_path: Path, suffix: str, delay_s: float) -> None:
    row = scan(item(with_sound(tmp_path / f"a.{suffix}", 12, delay_s)), ClipsSettings())
    assert (row["status"], row["said_s"], row["detail"]) == ("ok", None, None)
    assert row["duration_s"] == pytest.approx(4, abs=0.3)
    assert {clip.is_good for clip in clips_of(row, ClipsSettings())} == {True}


def test_a_file_with_sound_that_is_cut_short_tells_so(tmp_path: Path) -> None:
    content = with_sound(tmp_path / "whole.mkv", 4).read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    row = scan(item(tmp_path / "a.mkv"), ClipsSettings())
    assert row["said_s"] == pytest.approx(4, abs=0.1)
    assert row["duration_s"] < 3


def test_a_file_cut_to_its_first_frame_tells_so(tmp_path: Path) -> None:
    content = noisy_video(tmp_path / "whole.mp4", faststart=True).read_bytes()
    with av.open(str(tmp_path / "whole.mp4")) as container:
        first, second, *_ = sorted(p.pos for p in container.demux(video=0) if p.size)
    (tmp_path / "a.mp4").write_bytes(content[: (first + second) // 2 if second < first else second])
    row = scan(item(tmp_path / "a.mp4"), ClipsSettings())
    assert (row["n_frames"], row["said_s"]) == (1, 4)


def test_frames_that_an_edit_list_leaves_out_do_not_count(tmp_path: Path) -> None:
    whole = noisy_video(tmp_path / "whole.mp4")
    trim = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", "1.05", "-i", str(whole), "-c", "copy"]
    subprocess.run([*trim, str(tmp_path / "a.mp4")], check=True)
    row = scan(item(tmp_path / "a.mp4"), ClipsSettings())
    assert row["n_frames"] == decoded(tmp_path / "a.mp4") == 29
    assert row["duration_s"] == pytest.approx(2.9)


def test_a_damaged_end_is_in_the_row(tmp_path: Path) -> None:
    content = noisy_video(tmp_path / "whole.mp4", faststart=True).read_bytes()
    path = tmp_path / "a.mp4"
    path.write_bytes(content[: len(content) * 2 // 3].ljust(len(content), b"\0"))
    row = scan(item(path), ClipsSettings())
    assert (row["status"], row["n_frames"], row["duration_s"]) == ("ok", 40, 4)
    last_s = (len(row["brightness"]) - 1) / 8
    assert row["detail"] == f"it should last 4.00 s; its last good frame is at {last_s:.2f} s"


def test_a_lost_file_is_looked_at_again_and_a_bad_one_is_not(tmp_path: Path) -> None:
    lost = scan(item(tmp_path / "none.mp4"), ClipsSettings())
    assert (lost["status"], lost["reason"], lost["again"]) == ("dropped", "unreadable", True)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    bad = scan(item(tmp_path / "text.mp4"), ClipsSettings())
    assert (bad["status"], bad["reason"], bad["again"]) == ("dropped", "unreadable", False)


def test_what_took_too_long_is_looked_at_again(tmp_path: Path) -> None:
    """On a busy machine a good file may."""
    path = noisy_video(tmp_path / "a.mp4", seconds=1)
    slow = scan(item(path), ClipsSettings(decode_timeout_s=0.002))
    assert (slow["status"], slow["again"]) == ("dropped", True)
    assert "took longer" in slow["detail"]
    assert scan(item(path), ClipsSettings())["status"] == "ok"


def test_the_same_content_has_the_same_hash_wherever_it_is(tmp_path: Path, s3: str) -> None:
    path = corners_video(tmp_path / "a.mp4", seconds=1)
    storage.put(f"{s3}/b.mp4", path.read_bytes())
    here = scan(item(path), ClipsSettings())
    there = scan(Item(f"{s3}/b.mp4", "a.mp4", "etag", 0), ClipsSettings())
    assert (here["content"], here["video_id"]) == (there["content"], there["video_id"])
    np.testing.assert_array_equal(of_row(here)["phash"], of_row(there)["phash"])


@pytest.mark.parametrize("second", [(96, 64), (64, 48), (256, 192)])
def test_a_change_of_size_is_a_cut_and_each_part_has_its_own(tmp_path: Path, second: tuple[int, int]) -> None:
    """Also if the shape stays."""
    parts = [corners_video(tmp_path / f"{size[0]}.ts", size=size, seconds=3) for size in ((128, 96), second)]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    settings = ClipsSettings(durations_s=(1.0,), min_side_px=8)
    good = [clip for clip in clips_of(scan(item(path), settings), settings) if clip.is_good]
    assert {(clip.width, clip.height) for clip in good} == {(128, 96), second}
    for clip in good:
        frames = replace(clip.clip, version=None).frames()
        assert frames.shape == (clip.span.n_frames, clip.height, clip.width, 3)
        assert {corner_names(frame) for frame in frames} == {"RGBW"}
    with pytest.raises(Rejected, match="change size"):
        read_clip(str(path), fps=1, n_frames=6, size=(48, 64), decoder="pyav")


def part(size: tuple[int, int], turned: bool, n_frames: int) -> list[np.ndarray]:
    """Four colours, from left to right the other way round if `turned`, and a bar that moves."""
    frames = [corners_frame(*size)[:, :: -1 if turned else 1].copy() for _ in range(n_frames)]
    for k, frame in enumerate(frames):
        at = (size[0] - 8) * k // n_frames
        frame[:, at : at + 8] = 128
    return frames


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "h264"),
        ("libx264", "mkv"),
        ("libx264", "mp4"),
        ("libx265", "hevc"),
        ("libx265", "mkv"),
        ("libx265", "mp4"),
        ("libvpx", "webm"),
        ("libvpx", "ivf"),
        ("libvpx-vp9", "webm"),
        ("libvpx-vp9", "ivf"),
        ("mpeg2video", "mpg"),
        ("mpeg2video", "ts"),
    ],
)
def test_sizes_change_within_a_stream_without_loss(tmp_path: Path, codec: str, suffix: str) -> None:
    """To a smaller and to a larger one: each part begins at its own time, with its own size and pixels."""
    sizes, n = [(128, 96), (96, 128), (192, 144)], 50
    parts = [part(size, turned, n) for size, turned in zip(sizes, (False, True, False), strict=True)]
    path = changing_video(tmp_path / f"a.{suffix}", codec, parts)
    settings = ClipsSettings(durations_s=(1.0,), min_side_px=8)
    row = scan(item(path), settings)
    assert (row["status"], row["duration_s"]) == ("ok", pytest.approx(6, abs=0.05))
    slack = (
        1 if suffix == "mpg" else 0
    )  # it says some times only, and ffmpeg takes some frames for later ones
    assert row["n_frames"] == pytest.approx(3 * n, abs=slack)
    clips = clips_of(row, settings)
    assert [(clip.span.start_s, clip.width, clip.height) for clip in clips][:3] == [
        (2.0 * i, *size) for i, size in enumerate(sizes)
    ]
    for clip in clips:
        assert clip.is_good
        frames = replace(clip.clip, version=None).frames()
        assert frames.shape == (clip.span.n_frames, clip.height, clip.width, 3)
        shown = parts[int(clip.span.start_s // 2)]
        for i, frame in enumerate(frames):
            apart = [np.abs(frame.astype(int) - other).mean() for other in shown]
            number = int((clip.span.start_s % 2 + i / clip.fps) * 25 + 1e-6)
            assert min(number, n - 1) - slack <= np.argmin(apart) <= number
            assert min(apart) < 6
