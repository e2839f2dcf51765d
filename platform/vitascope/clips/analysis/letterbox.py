"""The picture inside black bars."""

from collections.abc import Mapping

import numpy as np

from vitascope.media.geometry import Crop

_BRIGHT = 0.1  # of 1; black rows in a dark scene are no bars
_MIN_FRAMES = 8  # with fewer, as in a still image, a dark edge may be chance
_FRACTION = 0.9  # of the bright frames must have a bar; the others may have a title in it
_SAME = 0.01  # of the height or width: tolerance between bars of one letterbox
_ASKEW = 0.05  # of the height or width; if opposite bars differ by more, they are a night sky or a stage
_MIN_PICTURE = 0.25  # of the height or width; anything smaller is no picture


def letterbox(series: Mapping[str, np.ndarray], whole: Crop | None = None) -> Crop:
    """The picture of a video, or a clip, without its black bars; the whole frame if it has none.

    `series` are those of `features`. A bar is black in nine of ten bright frames, has the same edge in most
    of them (the dark edge of a scene has not), and an equal bar opposite. Bars thinner than a row of the
    analysis (5 px of 1280) are not detected.

    Args:
        whole: the letterbox of the whole video. A clip with nearly the same bars gets exactly these, and so
            does a clip that is black there but too short or too dark to decide.
    """
    bars = series["bars"][series["brightness"] >= _BRIGHT].astype(np.float64)
    of_video = _edges(whole) if whole else np.zeros(4)
    if len(bars) >= _MIN_FRAMES:
        edges = _usual(bars)
        edges = np.where((np.abs(bars - edges) <= _SAME).mean(axis=0) > 0.5, edges, 0.0)
        skew = np.repeat(np.abs(edges[::2] - edges[1::2]), 2)
        edges = np.where(skew > _ASKEW, 0.0, edges)
        edges = np.where(np.abs(edges - of_video) <= _SAME, of_video, edges)
    else:
        black = _usual(series["bars"].astype(np.float64)) >= of_video - _SAME
        edges = of_video if black.all() else np.zeros(4)
    top, bottom, left, right = edges.tolist()
    crop = Crop(left, top, 1 - left - right, 1 - top - bottom)
    return crop if min(crop.width, crop.height) >= _MIN_PICTURE else Crop()


def _usual(bars: np.ndarray) -> np.ndarray:
    """(4,) the edges up to which nine of ten frames are black."""
    return np.quantile(bars, 1 - _FRACTION, axis=0, method="lower")


def _edges(crop: Crop) -> np.ndarray:
    """Top, bottom, left, right bars."""
    return np.array([crop.top, 1 - crop.top - crop.height, crop.left, 1 - crop.left - crop.width])
