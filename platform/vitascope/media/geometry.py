"""Sizes of pictures: displayed, covering, shrunk; and which way up they are.

All sizes are (height, width) in pixels. Pure arithmetic, shared by the readers of frames (swscale) and of
pictures (Pillow), neither of which scales to cover, or crops in the same call.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

CROP_RULE = (
    "mirrored and turned by the display matrix, combed frames by bwdif, alpha over white, swscale bilinear "
    "to cover, in gbrp, centre crop, BT.709; HDR of 1000 nits, white at 203; "
    "pictures in sRGB by their profiles, animations as browsers compose them"
)
"""Names the pixels that frames become; part of the latents' fingerprint, and of the catalog's folder."""

Size = tuple[int, int]
_SLACK = 1e-6  # of fractions that are sums and differences of others


@dataclass(frozen=True)
class Turn:
    """One of the eight ways to turn a picture: rows and columns exchanged or not, then flipped or not."""

    transposed: bool = False
    flipped_x: bool = False  # left and right exchanged, after the transposition
    flipped_y: bool = False

    @classmethod
    def of_matrix(cls, a: int, b: int, c: int, d: int) -> "Turn | None":
        """The turn of a display matrix (ISO/IEC 14496-12, 8.3.2); None if it is another angle.

        It shows the pixel (x, y) at (a x + c y, b x + d y). An angle within 1 degree of a quarter turn counts
        as one, as in ffmpeg. A matrix that shows nothing (rank below 2) is no turn.
        """
        if a * d == b * c:
            return cls()
        transposed = abs(b) + abs(c) > abs(a) + abs(d)
        along, across = ((b, c), (a, d)) if transposed else ((a, d), (b, c))
        if max(map(abs, across)) > math.tan(math.radians(1)) * min(map(abs, along)):
            return None
        return cls(True, c < 0, b < 0) if transposed else cls(False, a < 0, d < 0)

    @property
    def clockwise_deg(self) -> int:
        """The turn, before the picture is mirrored if it `mirrors`: 0, 90, 180 or 270."""
        return (270 if self.flipped_y else 90) if self.transposed else 180 * self.flipped_y

    @property
    def mirrors(self) -> bool:
        """Whether left and right are exchanged after turning."""
        return self.transposed ^ self.flipped_x ^ self.flipped_y

    def upright(self, picture: np.ndarray) -> np.ndarray:
        """A view of a coded picture (H W …) as it is displayed."""
        picture = picture.swapaxes(0, 1) if self.transposed else picture
        return picture[:: -1 if self.flipped_y else 1, :: -1 if self.flipped_x else 1]

    def size(self, size: Size) -> Size:
        """The displayed size of a coded one, and the reverse."""
        return size[::-1] if self.transposed else size


@dataclass(frozen=True)
class Crop:
    """A part of an upright frame, in fractions of its width and height.

    Raises:
        ValueError: it is empty or reaches beyond the frame.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        low, high = -_SLACK, 1 + _SLACK
        ends = ((self.left, self.width), (self.top, self.height))
        if not all(begin >= low and size > 0 and begin + size <= high for begin, size in ends):
            raise ValueError(
                f"a crop is a part of the frame, in fractions of its sides from 0 to 1, got {self}"
            )

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels of a frame of this size; at least 1 x 1, within the frame."""
        left, top = (min(round(s * n), n - 1) for s, n in ((self.left, width), (self.top, height)))
        right, bottom = round((self.left + self.width) * width), round((self.top + self.height) * height)
        return left, top, max(min(right, width) - left, 1), max(min(bottom, height) - top, 1)

    def lying(self, turn: Turn) -> "Crop":
        """The same part of the coded frame, which `turn` makes upright."""
        left = 1 - self.left - self.width if turn.flipped_x else self.left
        top = 1 - self.top - self.height if turn.flipped_y else self.top
        if turn.transposed:
            return Crop(top, left, self.height, self.width)
        return Crop(left, top, self.width, self.height)


WHOLE = Crop()
"""The whole frame."""


@dataclass(frozen=True)
class View:
    """How a clip is read: how many of its frames, at which size, and which part of the picture.

    Frames are scaled, antialiased, so that the part covers `size`, and cropped around the part's centre.
    Without a size the part is as large as displayed, or is `shrunk` to a long side.
    """

    n_frames: int
    size: Size | None = None
    crop: Crop = WHOLE
    long_side: int | None = None

    def __post_init__(self) -> None:
        if self.n_frames < 1 or min(self.size or (1,)) < 1:
            raise ValueError(f"a view has 1 frame or more, and sides of 1 px or more, got {self}")

    @property
    def is_plain(self) -> bool:
        """Whether frames are seen as they are."""
        return self.size is None and self.crop == WHOLE and self.long_side is None

    def lying(self, turn: Turn) -> "View":
        """The same view of coded frames, which `turn` makes upright."""
        return replace(self, size=self.size and turn.size(self.size), crop=self.crop.lying(turn))

    def placed(self, frame: Size) -> tuple[Size, slice, slice]:
        """The size to scale a frame of this displayed size to, and the rows and columns to keep of it."""
        shares = (self.crop.height, self.crop.width)
        *_, part_width, part_height = self.crop.pixels(frame[1], frame[0])
        part = (part_height, part_width)
        if target := self.size or (self.long_side and shrunk(part, self.long_side)):
            scale = max(t / (share * n) for t, share, n in zip(target, shares, frame, strict=True))
            height, width = (
                max(math.ceil(t / share - 1e-6), round(n * scale))
                for t, share, n in zip(target, shares, frame, strict=True)
            )
        else:
            target, (height, width) = part, frame
        begins = (self.crop.top, self.crop.left)
        top, left = (
            min(max(int(begin * n + (share * n - t) / 2 + 1e-6), 0), n - t)
            for begin, share, n, t in zip(begins, shares, (height, width), target, strict=True)
        )
        return (height, width), slice(top, top + target[0]), slice(left, left + target[1])


class Seen(NamedTuple):
    """What is on screen at a time, upright: for each view uint8 (H, W, 3); and its displayed size."""

    views: list[np.ndarray]
    size: Size
    frame: Any = None  # PyAV's, as decoded or deinterlaced, of a video


def displayed(size: Size, aspect: float) -> Size:
    """The size at which coded pixels, `aspect` times as wide as high, are square; no side gets shorter.

    Ratios beyond 1:4 and 4:1 are no camera's: the header is broken, and they are ignored.
    """
    height, width = size
    if not 0.25 <= aspect <= 4:
        return size
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def shrunk(size: Size, long_side: int) -> Size:
    """`size` reduced at the same aspect ratio until no side is longer than `long_side`."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
