"""The picture inside black bars."""

from collections.abc import Mapping

import numpy as np

from vitascope.media.geometry import Crop

_BRIGHT = 0.1  # of 1; in a dark scene, black rows are no bars
_MIN_FRAMES = 8  # in fewer, as in a still image, a dark edge may be chance
_SHARE = 0.9  # of the bright frames must have a bar; a title that runs into it may be in the others
_SAME = 0.01  # of the height or width: so near each other are the bars of one letterbox
_ASKEW = 0.05  # of the height or width; opposite bars that differ by more are a night sky, or a stage
_MIN_PICTURE = 0.25  # of the height or width; less is no picture


def letterbox(series: Mapping[str, np.ndarray], whole: Crop | None = None) -> Crop:
    """What is left of a video, or a clip, without its black bars; all of it if it has none.

    `series` are those of `features`. A bar is black in nine of ten bright frames, ends at one place in most
    of them, as the dark edge of a scene does not, and has one like it on the other side. Bars thinner than a
    row of the analysis (5 px of 1280) are not seen.

    Args:
        whole: the letterbox of the video that a clip is of. A clip with bars about there has the very same,
            and so has one that is black there but too short or dark to tell.
    """
    bars = series["bars"][series["brightness"] >= _BRIGHT].astype(np.float64)
    there = _edges(whole) if whole else np.zeros(4)
    if len(bars) >= _MIN_FRAMES:
        edges = _usual(bars)
        edges = np.where((np.abs(bars - edges) <= _SAME).mean(axis=0) > 0.5, edges, 0.0)
        skew = np.repeat(np.abs(edges[::2] - edges[1::2]), 2)
        edges = np.where(skew > _ASKEW, 0.0, edges)
        edges = np.where(np.abs(edges - there) <= _SAME, there, edges)
    else:
        black = _usual(series["bars"].astype(np.float64)) >= there - _SAME
        edges = there if black.all() else np.zeros(4)
    top, bottom, left, right = edges.tolist()
    crop = Crop(left, top, 1 - left - right, 1 - top - bottom)
    return crop if min(crop.width, crop.height) >= _MIN_PICTURE else Crop()


def _usual(bars: np.ndarray) -> np.ndarray:
    """(4,) what nine of ten frames are black up to."""
    return np.quantile(bars, 1 - _SHARE, axis=0, method="lower")


def _edges(crop: Crop) -> np.ndarray:
    """Top, bottom, left, right bars."""
    return np.array([crop.top, 1 - crop.top - crop.height, crop.left, 1 - crop.left - crop.width])
