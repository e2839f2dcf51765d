"""Scores, filters and the letterbox crop."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from media import joined
from media.made import write_video
from vitascope.clips.analysis.cut import Span, spans
from vitascope.clips.analysis.features import features
from vitascope.clips.analysis.letterbox import letterbox
from vitascope.clips.analysis.scores import judge, scores
from vitascope.clips.filters import HOOKS, SCORES, Filters
from vitascope.clips.table import CLIPS
from vitascope.media.geometry import Crop

FPS = 8
SECOND = Span(0.0, 1.0, 9)


@pytest.fixture(scope="module")
def bunny() -> np.ndarray:
    return joined.footage()[0][::3]


def looks(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Their series, and that they are not combed."""
    return features(frames) | {"combing": np.zeros(len(frames), np.float16)}


def score(frames: np.ndarray, span: Span = SECOND, **filters: Any) -> dict[str, float]:
    columns = scores(looks(frames), [span], Filters(**filters), FPS)
    return {name: float(values[0]) for name, values in columns.items()}


def verdict(frames: np.ndarray, span: Span = SECOND) -> tuple[str, str] | None:
    return judge(scores(looks(frames), [span], Filters(), FPS), Filters())[0]


def test_real_footage_passes_the_defaults(bunny: np.ndarray) -> None:
    series = looks(bunny)
    columns = scores(series, spans([(0, len(bunny) - 1)], FPS, (1.0, 2.0)), Filters(), FPS)
    assert set(columns) == set(SCORES)
    assert all(values.dtype == np.float32 and len(values) == 4 for values in columns.values())
    assert judge(columns, Filters()) == [None] * 4


def test_what_is_broken_is_dropped_by_default(bunny: np.ndarray) -> None:
    black, flat = np.zeros_like(bunny[:9]), np.full_like(bunny[:9], 90)
    assert verdict(black)[0] == "filter_black_share"  # type: ignore[index]
    assert verdict(flat)[0] == "filter_still_share"  # type: ignore[index]
    still = np.stack([bunny[0]] * 9)
    assert verdict(still) == (
        "filter_still_share",
        "still_share 1 > 0.95 (clips.filters.still_share.max)",
    )


def test_an_image_has_no_motion_and_passes(bunny: np.ndarray) -> None:
    image = score(bunny[:1], Span(0.0, 0.0, 1))
    assert all(np.isnan(image[name]) for name in ("motion", "still_share", "max_change"))
    assert verdict(bunny[:1], Span(0.0, 0.0, 1)) is None


def test_a_clip_is_not_blamed_for_the_cut_before_it(bunny: np.ndarray) -> None:
    frames = np.concatenate([255 - bunny[::-1][:8], bunny[:9]])
    after, across = score(frames, Span(1.0, 2.0, 9)), score(frames, Span(0.5, 1.5, 9))
    assert after == pytest.approx(score(bunny[:9]))
    assert across["max_change"] > 0.55 > after["max_change"]


def test_motion_is_per_second(bunny: np.ndarray) -> None:
    series = looks(bunny)
    assert scores(series, [SECOND], Filters(), FPS)["motion"][0] == pytest.approx(
        float(series["motion"][1:9].astype(float).mean()) * FPS, rel=1e-3
    )


def test_repeated_frames_are_counted(bunny: np.ndarray) -> None:
    halting = bunny[[0, 0, 1, 1, 2, 2, 3, 3, 4]]
    assert score(halting)["still_share"] == 0.5


def test_a_still_picture_is_still_after_compression(bunny: np.ndarray, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (24, *bunny[0].shape))
    path = write_video(tmp_path / "still.mp4", list((bunny[0] + noise).clip(0, 255).astype(np.uint8)), gop=6)
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert (np.abs(np.diff(frames.astype(int), axis=0)).max(axis=(1, 2, 3)) > 0).all()
    assert score(frames, Span(0.0, 2.875, 24))["still_share"] == 1


def test_a_score_that_is_off_is_no_column(bunny: np.ndarray) -> None:
    assert set(score(bunny, motion={"use": "off"})) == set(SCORES) - {"motion"}


def test_the_first_filter_is_the_reason_and_the_detail_names_all() -> None:
    filters = Filters(height={"use": "drop", "min": 480}, motion={"use": "drop"})
    broken = {"black_share": 0.0, "still_share": 0.0, "contrast": 0.2, "combing": 0.0}
    columns = {name: np.full(3, value, np.float32) for name, value in broken.items()}
    columns |= {"height": np.array([480, 360, 360]), "motion": np.array([0.5, 0.1, 0.0004])}
    assert judge(columns, filters) == [
        None,
        ("filter_height", "height 360 < 480 (clips.filters.height.min)"),
        (
            "filter_height",
            "height 360 < 480 (clips.filters.height.min); motion 0.0004 < 0.002 (clips.filters.motion.min)",
        ),
    ]


def only(**filters: Any) -> Filters:
    off = {name: {"use": "off"} for name in ("black_share", "still_share", "contrast", "combing")}
    return Filters(**off | filters)


def test_a_table_is_judged_like_arrays_and_null_passes() -> None:
    table = pa.table({"motion": pa.array([0.5, None, 0.001], pa.float32())})
    verdicts = judge(table, only(motion={"use": "drop"}))
    assert [verdict and verdict[0] for verdict in verdicts] == [None, None, "filter_motion"]


def test_a_limit_itself_passes() -> None:
    assert judge({"motion": np.array([0.3], np.float32)}, only(motion={"use": "drop", "min": 0.3})) == [None]


def test_durations_are_those_of_videos() -> None:
    table = pa.table({"start_s": [1.0, 0.0, 0.0], "end_s": [2.0, 3.0, 0.0], "n_frames": [9, 25, 1]})
    verdicts = judge(table, only(duration_s={"use": "drop", "min": 2.0}))
    assert [verdict and verdict[0] for verdict in verdicts] == ["filter_duration_s", None, None]


def test_a_score_that_was_not_computed_cannot_drop() -> None:
    with pytest.raises(ValueError, match=r"clips\.filters\.motion drops, but the table has no column motion"):
        judge({"height": [1]}, only(motion={"use": "drop"}))


def test_a_score_is_declared_once() -> None:
    columns = {f.name for f in CLIPS if f.type == "float"}
    assert columns == {*SCORES, *HOOKS} == set(Filters.model_fields) - {"width", "height", "duration_s"}


def test_a_partial_table_keeps_the_other_defaults() -> None:
    motion = Filters(motion={"use": "drop"}).motion
    assert (motion.use, motion.min, motion.max) == ("drop", Filters().motion.min, Filters().motion.max)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"motion": {"use": "drop", "minimum": 1}}, "did you mean 'min'"),
        ({"saturation": {"use": "drop"}}, "needs a limit, got none"),
        ({"motion": {"min": 2, "max": 1}}, "min 2 is above max 1"),
        ({"aesthetic": {"use": "score"}}, "function is `module:function`, got None"),
        ({"sharpnes": {}}, "did you mean 'sharpness'"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(filters: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Filters(**filters)


def boxed(frames: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """The frames with black bars of this many rows."""
    frames = frames.copy()
    frames[:, :top], frames[:, len(frames[0]) - bottom :] = 0, 0
    return frames


def test_a_letterbox_is_cropped(bunny: np.ndarray) -> None:
    crop = letterbox(features(boxed(bunny, 18, 18)))
    assert (crop.left, crop.width) == (0, 1)
    assert (crop.top, crop.height) == pytest.approx((19 / 144, 106 / 144), abs=0.001)
    left, top, width, height = crop.pixels(1920, 1080)
    assert (left, width) == (0, 1920)
    assert 135 <= top <= 144
    assert top + height <= 1080 - 135


def test_a_title_in_the_bar_now_and_then_changes_nothing(bunny: np.ndarray) -> None:
    frames = boxed(bunny, 18, 18)
    frames[10:13, 130:140, 100:150] = 255
    assert letterbox(features(frames)) == letterbox(features(boxed(bunny, 18, 18)))


def test_what_is_no_letterbox_is_kept_whole(bunny: np.ndarray) -> None:
    assert letterbox(features(bunny)) == Crop()
    rising = np.stack([boxed(bunny[:1], 4 + 2 * i, 0)[0] for i in range(40)])  # the edge moves: a dark scene
    assert letterbox(features(rising)) == Crop()
    assert letterbox(features(boxed(bunny // 8, 18, 18))) == Crop()  # too dark to decide
    assert letterbox(features(boxed(bunny[:1], 18, 18))) == Crop()  # an image
    assert letterbox(features(np.zeros_like(bunny))) == Crop()


def test_a_crop_in_pixels_lies_within_the_frame() -> None:
    assert Crop().pixels(1280, 720) == (0, 0, 1280, 720)
    assert Crop(0.9, 0.9, 0.1, 0.1).pixels(1, 1) == (0, 0, 1, 1)
