"""Numbers that describe consecutive frames.

They are computed once, on small frames on the grid of `clips.fps`, and kept: shots, scores and filters follow
from these series without decoding again.
"""

import itertools
from typing import Any

import cv2
import numpy as np

from vitascope.clips.analysis.phash import phashes
from vitascope.clips.analysis.series import FEATURES

SIDE_PX = 256  # long side of the frames that are analysed
_BAR_LEVEL, _BAR_SPREAD = 24, 8  # of 255: black is 16 in limited range, plus noise; and a bar is flat
_FLOW_SIDE_PX = 128  # for smaller frames OpenCV's flow changes its settings or crashes (OpenCV issue 14554)
_FLOAT16_MAX = 65_504.0

_Numbers = dict[str, Any]
_Planes = tuple[np.ndarray, np.ndarray]  # HSV (H W 3), grey (H W)

cv2.setNumThreads(1)  # a task has one core


def features(frames: np.ndarray, previous: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Series (F,) of numbers for frames (F H W 3, uint8, RGB) that follow each other on the grid.

    `previous` is the frame before the first, so that a video can be processed in stretches: the last frame of
    one is `previous` of the next. Without it, the first frame follows itself.

    change: mean difference of hue, saturation and value to the previous frame, in levels of 255; the measure
        of PySceneDetect's ContentDetector.
    peak_change: largest mean difference of grey within one of 16 x 16 tiles, in levels of 255. A cursor that
        moves shows here and not in `change`; codec noise shows in neither.
    motion: mean length of the optical flow from the previous frame, as a fraction of the frame's diagonal
        (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search").
    residual: mean difference of grey to the previous frame warped along that flow, in levels of 255: change
        that motion does not explain.
    brightness, contrast: mean and standard deviation of grey, of 1.
    saturation: mean, of 1.
    sharpness: variance of the Laplacian of grey (Pech-Pacheco et al. 2000) at 256 px, which shows only blur
        wider than about 1/256 of the frame.
    bars: (F, 4) black rows or columns at top, bottom, left and right, as fractions of the height or width.
    phash: `phash.phashes`.
    """
    shape = _shape(frames.shape[1], frames.shape[2])
    small = [_resized(frame, shape) for frame in frames]
    before = small[0] if previous is None else _resized(previous, shape)
    planes = [_planes(frame) for frame in (before, *small)]
    flow = _Flow()
    rows = [_still(*now) | _moving(now, then, flow) for then, now in itertools.pairwise(planes)]
    series = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    series["phash"] = phashes(np.array(small))
    series["sharpness"] = series["sharpness"].clip(max=_FLOAT16_MAX)
    return {name: series[name].astype(kind.dtype) for name, kind in FEATURES.items()}


def _shape(height: int, width: int) -> tuple[int, int]:
    scale = min(SIDE_PX / max(height, width), 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _resized(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return frame if frame.shape[:2] == shape else cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_AREA)


def _planes(frame: np.ndarray) -> _Planes:
    return cv2.cvtColor(frame, cv2.COLOR_RGB2HSV), cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def _still(hsv: np.ndarray, grey: np.ndarray) -> _Numbers:
    mean, std = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F))
    return {
        "brightness": mean.item() / 255,
        "contrast": std.item() / 255,
        "saturation": cv2.mean(hsv)[1] / 255,
        "sharpness": edges.item() ** 2,
        "bars": _bars(grey),
    }


def _bars(grey: np.ndarray) -> np.ndarray:
    """(4,) top, bottom, left, right. The row or column next to a bar is mixed with the picture and counts."""
    fractions = []
    for axis in (1, 0):
        low, high = grey.min(axis), grey.max(axis)
        picture = np.flatnonzero((high > _BAR_LEVEL) | (high - low > _BAR_SPREAD))
        first, last = (picture[0], picture[-1]) if len(picture) else (len(low), -1)
        widths = np.array([first, len(low) - 1 - last])
        fractions.append(np.minimum(widths + (widths > 0), len(low)) / len(low))
    return np.concatenate(fractions)


def _moving(now: _Planes, then: _Planes, flow: "_Flow") -> _Numbers:
    (hsv, grey), (hsv_before, grey_before) = now, then
    difference = cv2.absdiff(grey, grey_before)
    tiles = cv2.resize(difference.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    moves = flow(grey_before, grey)
    return {
        "change": sum(cv2.mean(cv2.absdiff(hsv, hsv_before))[:3]) / 3,
        "peak_change": tiles.max(),
        "motion": np.hypot(moves[..., 0], moves[..., 1]).mean() / np.hypot(*grey.shape),
        "residual": cv2.mean(cv2.absdiff(grey_before, _moved(grey, moves)))[0],
    }


class _Flow:
    """OpenCV's dense inverse search, for frames of one size, as it keeps state of a size."""

    def __init__(self) -> None:
        self.search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)

    def __call__(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        """The displacement of each pixel: float32 (H, W, 2), x and y in pixels."""
        height, width = now.shape
        add = (0, max(_FLOW_SIDE_PX - height, 0), 0, max(_FLOW_SIDE_PX - width, 0))
        first, second = (cv2.copyMakeBorder(grey, *add, cv2.BORDER_REPLICATE) for grey in (before, now))
        return np.asarray(self.search.calc(first, second, None))[:height, :width]  # type: ignore[call-overload]


def _moved(now: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """`now` warped back along the flow."""
    y, x = np.indices(now.shape, np.float32)
    return cv2.remap(
        now, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
