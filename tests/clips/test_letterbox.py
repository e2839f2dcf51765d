"""Clips without the black bars of their source."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from media import joined
from media.made import read_clip, write_video
from vitascope import storage
from vitascope.clips.analysis.features import features
from vitascope.clips.analysis.letterbox import letterbox
from vitascope.clips.stage import run
from vitascope.config import Settings
from vitascope.media.clip import Clip
from vitascope.media.geometry import Crop


@pytest.fixture(scope="module")
def bunny() -> np.ndarray:
    return joined.footage()[0][::3]


def boxed(frames: np.ndarray, top: int, bottom: int | None = None) -> np.ndarray:
    frames = frames.copy()
    frames[:, :top], frames[:, len(frames[0]) - (top if bottom is None else bottom) :] = 0, 0
    return frames


def test_a_clip_has_the_bars_of_its_video(bunny: np.ndarray) -> None:
    whole = letterbox(features(boxed(bunny, 18)))
    assert letterbox(features(boxed(bunny[:9], 18)), whole) == whole
    assert letterbox(features(boxed(bunny[:4], 18)), whole) == whole  # too short to decide
    assert letterbox(features(boxed(bunny[:9] // 8, 18)), whole) == whole  # too dark
    assert letterbox(features(np.zeros_like(bunny[:9])), whole) == whole


def test_a_clip_that_differs_from_its_video_has_its_own(bunny: np.ndarray) -> None:
    whole = letterbox(features(boxed(bunny, 18)))
    assert letterbox(features(bunny[:9]), whole) == Crop()  # a shot that fills the frame
    assert letterbox(features(bunny[:4]), whole) == Crop()
    other = letterbox(features(boxed(bunny[:9], 28)), whole)
    assert other.top == pytest.approx(29 / 144, abs=0.001)
    assert letterbox(features(boxed(bunny[:9], 18)), Crop()) == whole


def test_a_black_sky_is_no_bar(bunny: np.ndarray) -> None:
    assert letterbox(features(boxed(bunny, 50, 0))) == Crop()
    thin = letterbox(features(boxed(bunny, 6, 0)))  # as in a capture of a tape
    assert (thin.top, thin.height) == pytest.approx((7 / 144, 137 / 144), abs=0.001)


def settings(source: Path, folder: Path, **clips: Any) -> Settings:
    ours = {"input": str(source), "durations_s": [1.0], "val_share": 0.0, "fps": 8.0}
    return Settings.model_validate({"run": {"folder": str(folder)}, "clips": ours | clips})


@pytest.fixture(scope="module")
def source(bunny: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    ten = np.repeat(bunny, 2, axis=0)[:31]
    write_video(folder / "boxed.mp4", list(boxed(ten, 18)))
    write_video(folder / "plain.mp4", list(ten[:, ::-1]))
    turned = np.rot90(boxed(ten[::-1, :, ::-1], 18), 1, axes=(1, 2))
    write_video(folder / "turned.mp4", list(turned), rotation=270)
    for name in ("boxed", "plain", "turned"):
        (folder / f"{name}.txt").write_text(name)
    return folder


@pytest.mark.usefixtures("in_process")
def test_the_clip_table_says_where_the_picture_is(source: Path, tmp_path: Path) -> None:
    run(settings(source, tmp_path / "run", duplicates="keep"))
    rows = {row["name"]: row for row in storage.rows(f"{tmp_path}/run/clips") if row["start_s"] == 1}
    assert Clip.of_row(rows["plain.mp4"]).crop == Crop()
    for name in ("boxed.mp4", "turned.mp4"):
        row = rows[name]
        crop = Clip.of_row(row).crop
        assert (crop.left, crop.width) == (0, 1)
        assert (crop.top, crop.height) == pytest.approx((19 / 144, 106 / 144), abs=0.002)
        assert row["width"] == rows["plain.mp4"]["width"]
        assert row["height"] == crop.pixels(row["width"], rows["plain.mp4"]["height"])[3]
        how = {key: row[key] for key in ("start_s", "fps", "n_frames", "decoder")}
        frames = read_clip(row["uri"], crop=crop, **how)
        assert frames.shape == (9, row["height"], row["width"], 3)
        assert frames.min(axis=(0, 2, 3)).max() < 256
        assert frames.max(axis=(2, 3)).min() > 40  # no black row is left


@pytest.mark.usefixtures("in_process")
def test_filters_see_the_picture_and_off_sees_the_frame(source: Path, tmp_path: Path) -> None:
    def reasons(**clips: Any) -> dict[str, str | None]:
        run(settings(source, tmp_path / "run", duplicates="keep", **clips))
        return {row["name"]: row["reason"] for row in storage.rows(f"{tmp_path}/run/clips")}

    too_small = {"boxed.mp4": "too_small", "plain.mp4": None, "turned.mp4": "too_small"}
    assert reasons(min_side_px=120) == too_small
    height = {"height": {"use": "drop", "min": 120}}
    assert reasons(filters=height) == {k: v and "filter_height" for k, v in too_small.items()}
    assert reasons(min_side_px=120, letterbox="off") == dict.fromkeys(too_small)
    rows = storage.rows(f"{tmp_path}/run/clips")
    assert {Clip.of_row(row).crop for row in rows} == {Crop()}


@pytest.mark.usefixtures("in_process")
def test_duplicates_within_bars_are_found(bunny: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    ten = np.repeat(bunny, 2, axis=0)[:31]
    for name, crf in (("first", "18"), ("second", "32")):
        write_video(folder / f"{name}.mp4", list(boxed(ten, 18)), options={"crf": crf})
        (folder / f"{name}.txt").write_text(name)
    run(settings(folder, tmp_path / "run", duplicates="near"))
    rows = storage.rows(f"{tmp_path}/run/clips")
    kept = Counter(row["start_s"] for row in rows if row["reason"] != "duplicate")
    assert (len(rows), set(kept.values())) == (6, {1})
