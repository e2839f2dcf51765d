"""Hundreds of good, odd and damaged files: each ends in a row with its outcome."""

import random
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter
from corpus import MAKERS, write, write_no_files
from PIL import Image

from media import damage
from media.made import read_clip
from vitascope import storage
from vitascope.clips.analysis.derive import clips_of
from vitascope.clips.analysis.scan import STRETCH_FRAMES, scan
from vitascope.clips.filters import Filters, reason
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.clips.stage import run
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected
from vitascope.media.colour import to_rgb
from vitascope.media.geometry import View
from vitascope.media.isolate import IDLE_BYTES
from vitascope.media.probe import probe

TIMEOUT_S = 20.0  # the machine may be busy; hangs take longer
FUZZ_S = 600.0

SLOW = ("gap-", "bomb", "zeros", "-ffff.", "gigantic.webp", "ffffff.webp")
"""In names of files that are seconds of work: their headers promise it, or they are large."""
QUICK = sorted(name for name in MAKERS if not any(word in name for word in SLOW))
GOOD = sorted(name for name in MAKERS if name.startswith("good/"))
SDR = [name for name in GOOD if "/hdr/" not in name]
WHOLE = [name for name in QUICK if name.startswith(("good/", "odd/pictures/", "odd/times/", "odd/streams/"))]

ABSENT = ("odd/links/", "odd/names/a.tar#")
"""Prefixes of names that cannot be opened: bad links, pipes, a name like a position in a tar."""

PLAIN = {"duplicates": "keep", "durations_s": (0.5,), "min_side_px": 8, "decode_timeout_s": TIMEOUT_S}


def settings(source: Path, folder: Path) -> Settings:
    return Settings.model_validate({"run": {"folder": str(folder)}, "clips": {"input": str(source)} | PLAIN})


REASONS = {*Reason, *map(reason, Filters.model_fields)}


def assert_reasoned(row: dict[str, Any]) -> None:
    """It is fine, or says why not."""
    if row["status"] != "ok":
        assert (row["status"], row["reason"] in REASONS) == ("dropped", True)
        assert row["detail"]


def assert_accounted_for(names: set[str], folder: Path) -> None:
    """Every file has a row, every readable one clips, every row its reason; good files are whole.

    And none was ended by its time limit, nor lost its process: the catalog would have it looked at again.
    """
    videos = {row["name"]: row for row in storage.rows(f"{folder}/videos")}
    clips = storage.rows(f"{folder}/clips")
    assert videos.keys() == names
    assert {clip["name"] for clip in clips} == {n for n, row in videos.items() if row["status"] == "ok"}
    for row in [*videos.values(), *clips]:
        assert_reasoned(row)
    parts = storage.list_files(f"{folder}/catalog")
    again = [row["name"] for part in parts for row in storage.rows(part) if row["again"]]
    assert [name for name in again if not name.startswith(ABSENT)] == []
    good = names & set(GOOD)
    assert {videos[name]["reason"] for name in good} <= {None, "too_small"}
    assert [c["name"] for c in clips if c["name"] in good and c["reason"] == "decode_failed"] == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_sample_is_accounted_for(tmp_path: Path) -> None:
    names = QUICK[:: len(QUICK) // 60]
    write(tmp_path / "in", names)
    others = write_no_files(tmp_path / "in")
    run(settings(tmp_path / "in", tmp_path / "run"))
    assert_accounted_for({*names, *others}, tmp_path / "run")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray_cluster")
def test_all_are_accounted_for_and_no_worker_is_lost(tmp_path: Path) -> None:
    assert len(MAKERS) >= 500
    write(tmp_path / "in", MAKERS)
    run(settings(tmp_path / "in", tmp_path / "run"))
    assert_accounted_for(set(MAKERS), tmp_path / "run")
    write(tmp_path / "good", GOOD[::4])
    run(settings(tmp_path / "good", tmp_path / "again"))
    assert_accounted_for(set(GOOD[::4]), tmp_path / "again")


def pyavs_own(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The times (F,) of all frames, from the first one's, and the frames (H W 3), upright."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        ticks = [frame.pts for frame in frames]
        if container.format.name == "avi" or None in ticks:  # which do not say when a frame is shown
            times_s = np.arange(len(frames)) / float(stream.average_rate)
        else:
            times_s = np.array([float(tick * stream.time_base) for tick in ticks])
        untagged = frames[0].colorspace == 2 and (frames[0].width >= 1280 or frames[0].height > 576)
        how = {"src_colorspace": "ITU709"} if untagged else {}
        aspect = stream.sample_aspect_ratio or Fraction(1)
        square = aspect == 1 or aspect > 4  # a ratio that no camera has counts as none
        if not square:  # the full resolution of colour is used when frames are scaled
            how["interpolation"] = (
                Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
            )
        pictures = [frame.to_ndarray(format="rgb24", **how) for frame in frames]
    if not square:
        height, width = pictures[0].shape[:2]
        wide = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
        scaled = Image.Resampling.BILINEAR
        pictures = [np.asarray(Image.fromarray(picture).resize(wide, scaled)) for picture in pictures]
    return times_s - times_s[0], [np.rot90(picture, round(frames[0].rotation / 90)) for picture in pictures]


def ours(path: Path, times_s: np.ndarray, fps: float) -> np.ndarray:
    row = probe(str(path))
    how = {"decoder": row.decoder}
    return read_clip(str(path), start_s=times_s[0], fps=fps, n_frames=len(times_s), **how)


def differing(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The files whose frames are not those that PyAV shows at the same times, and how they differ."""
    found = {}
    for name in names:
        times_s, pictures = pyavs_own(folder / name)
        fps = 8.0 if "vfr" in name else 1 / max(times_s[1], 0.04) if len(times_s) > 1 else 10.0
        for first in (0, len(times_s) // 2):
            wanted_s = np.arange(first, int(times_s[-1] * fps + 1e-6) + 1) / fps
            shown = np.searchsorted(times_s, wanted_s + 0.002, side="right") - 1
            got, wanted = ours(folder / name, wanted_s, fps), np.stack([pictures[i] for i in shown])
            if got.shape != wanted.shape:
                found[name] = f"{got.shape} for {wanted.shape}"
            elif not np.array_equal(got, wanted) and not _scaled_alike(name, got, wanted):
                found[name] = f"frames {np.flatnonzero((got != wanted).any(axis=(1, 2, 3)))} from {first}"
    return found


def _scaled_alike(name: str, got: np.ndarray, wanted: np.ndarray) -> bool:
    """Pixels that are not square are scaled by an antialiased filter, like Pillow's."""
    error = np.mean((got.astype(float) - wanted) ** 2)
    return ("aspects" in name or "h263." in name) and bool(10 * np.log10(255**2 / error) > 45)


def test_good_files_come_out_as_pyavs_frames(tmp_path: Path) -> None:
    write(tmp_path, SDR)
    assert differing(tmp_path, SDR) == {}


@pytest.mark.parametrize(("transfer", "level"), [("smpte2084", 184), ("arib-std-b67", 143)])
def test_hdr_has_the_light_of_a_display_whose_white_is_203_nits(
    tmp_path: Path, transfer: str, level: int
) -> None:
    """Code 0.5 is 92.2 nits by BT.2100's PQ; by its HLG, on a display of 1000 nits, 50.7."""
    name = f"good/hdr/{transfer}.mp4"
    write(tmp_path, [name])
    frames = ours(tmp_path / name, np.arange(3) / 8, 8)
    assert np.abs(frames.astype(int) - level).max() <= 3


def test_hdr_is_widened_like_any_other_picture(tmp_path: Path) -> None:
    """swscale's rgb48le is 11 dB from it if only the width is scaled."""
    name = "good/formats/yuv420p10le-libx265.mp4"
    write(tmp_path, [name])
    with av.open(str(tmp_path / name)) as container:
        frame = next(container.decode(video=0))
    frame.color_trc = ColorTrc.SMPTE2084
    own, wide = (to_rgb(VideoReformatter(), frame, View(1), aspect) for aspect in (1.0, 1.5))
    scaled = np.asarray(Image.fromarray(own).resize((144, 64), Image.Resampling.BILINEAR))
    assert 10 * np.log10(255**2 / np.mean((scaled.astype(float) - wide) ** 2)) > 25


@pytest.mark.parametrize(
    ("name", "end_s"),
    [
        ("good/times/vfr.mp4", 2.65),  # says 1.2
        ("damaged/h264.mkv/#448988-3-7ff0000000000000.mkv", 1.5),  # says infinite
        ("good/times/from954430.mkv", 1.5),  # says a day
        pytest.param("odd/times/gap-1099511627776.mkv", 300, marks=pytest.mark.nightly),  # 35 years
    ],
)
def test_series_end_where_the_frames_do_whatever_the_headers_say(
    tmp_path: Path, name: str, end_s: float
) -> None:
    write(tmp_path, [name])
    row = scan(Item(str(tmp_path / name), name, "1", 1), ClipsSettings.model_validate(PLAIN))
    assert (len(row["brightness"]) - 1) / 8 == pytest.approx(end_s, abs=0.2)
    assert row["duration_s"] >= end_s - 0.2


class Fuzz:
    """Random changes to random good files; the same seed makes the same file."""

    def __init__(self, folder: Path) -> None:
        self.whole, self.folder = folder / "whole", folder
        write(self.whole, WHOLE)
        self.settings = ClipsSettings.model_validate(PLAIN)

    def check(self, seed: int) -> str | None:
        """What is wrong with the outcome of a file; None if it is as expected."""
        chance = random.Random(seed)
        name = chance.choice(WHOLE)
        path = self.folder / f"hurt{Path(name).suffix}"
        path.write_bytes(damage.mutated((self.whole / name).read_bytes(), chance))
        started = time.monotonic()
        try:
            row = scan(Item(str(path), name, str(seed), path.stat().st_size), self.settings)
            clips = [clip.as_row() for clip in clips_of(row, self.settings)]
            for each in [row, *clips]:
                assert_reasoned(each)
            took_s, stretches = time.monotonic() - started, len(row.get("brightness", ())) / STRETCH_FRAMES
            assert took_s < TIMEOUT_S * (4 + stretches), f"took {took_s:.0f} s"
            if clips:
                self._read(path, chance.choice(clips), chance)
        except Exception as error:
            return f"{name}, seed {seed}: {type(error).__name__}: {error}"
        return None

    def _read(self, path: Path, clip: dict[str, Any], chance: random.Random) -> None:
        started, size = time.monotonic(), chance.choice((None, (32, 48)))
        how = {key: clip[key] for key in ("start_s", "n_frames", "fps", "decoder")}
        try:
            frames = read_clip(str(path), size=size, timeout_s=TIMEOUT_S, **how)
            assert frames.shape == (clip["n_frames"], *(size or frames.shape[1:3]), 3)
        except Rejected:
            pass
        assert time.monotonic() - started < 3 * TIMEOUT_S


def memory_bytes() -> int:
    """Of this process and those that decode for it."""
    return sum(p.memory_info().rss for p in (psutil.Process(), *psutil.Process().children(recursive=True)))


@pytest.mark.timeout(FUZZ_S + 900)
@pytest.mark.parametrize(
    ("first_seed", "seconds"), [(0, 5.0), pytest.param(1_000_000, FUZZ_S, marks=pytest.mark.nightly)]
)
def test_whatever_bytes_say_a_file_ends_in_rows_or_is_rejected(
    tmp_path: Path, first_seed: int, seconds: float
) -> None:
    fuzz, wrong, before = Fuzz(tmp_path), [], memory_bytes()
    until, seed = time.monotonic() + seconds, first_seed
    while time.monotonic() < until:
        wrong += filter(None, [fuzz.check(seed)])
        seed += 1
    assert wrong == [], f"of {seed - first_seed} files"
    assert memory_bytes() < before + IDLE_BYTES  # a child that holds more gives way to a new one
    assert differing(fuzz.whole, SDR[::20]) == {}
