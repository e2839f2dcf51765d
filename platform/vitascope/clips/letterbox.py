"""The picture inside black bars."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_BRIGHT = 0.1  # of 1; where a scene is dark, black rows are no bars
_MIN_FRAMES = 8  # in fewer, as in a still image, a dark edge may be chance
_SHARE = 0.9  # of the bright frames must have a bar; a title that runs into it may be in the others
_SAME = 0.01  # of the height or width: so near each other are the bars of one letterbox
_MIN_PICTURE = 0.25  # of the height or width; less is no picture


@dataclass(frozen=True)
class Crop:
    """A part of a frame, in shares of its width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels of a frame of this size; at least 1 x 1, within the frame."""
        left, top = (min(round(s * n), n - 1) for s, n in ((self.left, width), (self.top, height)))
        right, bottom = round((self.left + self.width) * width), round((self.top + self.height) * height)
        return left, top, max(min(right, width) - left, 1), max(min(bottom, height) - top, 1)


def letterbox(series: Mapping[str, np.ndarray]) -> Crop:
    """What is left of a video, or a clip, without its black bars; all of it where it has none.

    `series` are those of `features`. A bar is black in nine of ten bright frames, and ends at one place in
    most of them, as the dark edge of a scene does not. Bars thinner than a row of the analysis (5 px of
    1280) are not seen.
    """
    bars = series["bars"][series["brightness"] >= _BRIGHT].astype(np.float64)
    if len(bars) < _MIN_FRAMES:
        return Crop()
    edges = np.quantile(bars, 1 - _SHARE, axis=0, method="lower")
    agree = (np.abs(bars - edges) <= _SAME).mean(axis=0) > 0.5
    top, bottom, left, right = np.where(agree, edges, 0.0)
    crop = Crop(float(left), float(top), float(1 - left - right), float(1 - top - bottom))
    return crop if min(crop.width, crop.height) >= _MIN_PICTURE else Crop()
