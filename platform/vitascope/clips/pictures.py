"""Open pictures, still and moving, and their frames by timestamp."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from vitascope.clips import tars
from vitascope.clips.clock import HOLD_S, LONGEST_S, TIME_TOLERANCE_S
from vitascope.clips.resize import Seen, View

_IMAGES = ("JPEG", "PNG", "WEBP", "BMP", "AVIF")
_MOVING_IMAGES = ("PNG", "WEBP")  # GIF is PyAV's


class PillowReader:
    """A picture, moving, or still: one frame at every time, turned as EXIF says."""

    def __init__(self, uri: str) -> None:
        with tars.open_file(uri) as file:
            self._content = file.read()
        self._image = open_image(io.BytesIO(self._content))
        durations_s = frame_durations_s(self._image)
        self._moving = bool(durations_s)
        ends_s = np.cumsum(durations_s or [np.inf])
        self._starts_s, self._end_s = np.concatenate([[0.0], ends_s[:-1]]), ends_s[-1]

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[Seen | None]:
        last, seen = -1, None
        for time_s in times_s[times_s <= self._end_s + HOLD_S]:
            number = int(np.searchsorted(self._starts_s, time_s + TIME_TOLERANCE_S, side="right")) - 1
            if number != last:
                image = _opaque(self._frame(number))
                last, seen = number, Seen([_seen(image, view) for view in views], (image.height, image.width))
            yield seen

    def _frame(self, number: int) -> Image.Image:
        if not self._moving:
            return ImageOps.exif_transpose(self._image)
        if number < self._image.tell():  # Pillow loses its place in an APNG that is wound back twice
            self._image = open_image(io.BytesIO(self._content))
        self._image.seek(number)
        return self._image


def open_image(file: Any) -> Image.Image:
    """A picture open in Pillow, not yet decoded; raises OSError where it is none."""
    return Image.open(file, formats=_IMAGES)


def frame_durations_s(image: Image.Image) -> list[float]:
    """How long each frame of a moving picture is shown; none for a still one. Decodes all of it."""
    n_frames = getattr(image, "n_frames", 1)
    if image.format not in _MOVING_IMAGES or n_frames == 1:
        return []
    durations_ms = []
    for number in range(n_frames):
        image.seek(number)
        image.load()
        durations_ms.append(image.info.get("duration", 0))
    return [min((ms if ms > 10 else 100) / 1000, LONGEST_S) for ms in durations_ms]  # as all browsers do


def _seen(image: Image.Image, view: View) -> np.ndarray:
    """An image as uint8 (H W 3), scaled and cropped as `to_rgb` does, with Pillow's antialiased filter."""
    (height, width), rows, columns = view.placed((image.height, image.width))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))[rows, columns]


def _opaque(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB: transparency over white, 16-bit grey scaled down to 8."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
