"""Sizes of pictures: displayed, covering, shrunk.

All sizes are (height, width) in pixels.
"""

import math
from dataclasses import dataclass

CROP_RULE = (
    "swscale bilinear to cover, in gbrp, centre crop, BT.709; HDR of 1000 nits, white at 203; "
    "pictures in sRGB by their profiles, animations as browsers compose them"
)
"""Names the pixels that frames become; part of the latents' fingerprint, and of the catalog's folder."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Crop:
    """A part of an upright frame, in shares of its width and height."""

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels of a frame of this size; at least 1 x 1, within the frame."""
        left, top = (min(round(s * n), n - 1) for s, n in ((self.left, width), (self.top, height)))
        right, bottom = round((self.left + self.width) * width), round((self.top + self.height) * height)
        return left, top, max(min(right, width) - left, 1), max(min(bottom, height) - top, 1)

    def turned(self) -> "Crop":
        """The same part of the frame that a clockwise quarter turn makes upright."""
        return Crop(self.top, 1 - self.left - self.width, self.height, self.width)


@dataclass(frozen=True)
class View:
    """A way to see a clip: its first frames, at a size, of a part of the picture.

    Frames are scaled, antialiased, so that the part covers `size`, and cropped around the part's centre.
    Without a size the part is as large as displayed.
    """

    n_frames: int
    size: Size | None = None
    crop: Crop = Crop()

    def __post_init__(self) -> None:
        if self.n_frames < 1 or min(self.size or (1,)) < 1:
            raise ValueError(f"a view has 1 frame or more, and sides of 1 px or more, got {self}")

    @property
    def is_plain(self) -> bool:
        """Whether frames are seen as they are."""
        return self.size is None and self.crop == Crop()

    def turned(self, quarters: int) -> "View":
        """The view of frames that so many clockwise quarter turns make upright."""
        view = self
        for _ in range(quarters % 4):
            view = View(view.n_frames, view.size and view.size[::-1], view.crop.turned())
        return view

    def placed(self, frame: Size) -> tuple[Size, slice, slice]:
        """The size to scale a frame of this displayed size to, and the rows and columns to keep of it."""
        shares = (self.crop.height, self.crop.width)
        if self.size:
            target = self.size
            scale = max(t / (share * n) for t, share, n in zip(target, shares, frame, strict=True))
            height, width = (
                max(math.ceil(t / share - 1e-6), round(n * scale))
                for t, share, n in zip(target, shares, frame, strict=True)
            )
        else:
            *_, part_width, part_height = self.crop.pixels(frame[1], frame[0])
            target, (height, width) = (part_height, part_width), frame
        begins = (self.crop.top, self.crop.left)
        top, left = (
            min(max(int(begin * n + (share * n - t) / 2 + 1e-6), 0), n - t)
            for begin, share, n, t in zip(begins, shares, (height, width), target, strict=True)
        )
        return (height, width), slice(top, top + target[0]), slice(left, left + target[1])


def displayed(size: Size, aspect: float) -> Size:
    """The size at which coded pixels `aspect` times as wide as high are square; no side gets shorter.

    Ratios beyond 1:4 and 4:1 are no camera's, and taken for a broken header.
    """
    height, width = size
    if not 0.25 <= aspect <= 4:
        return size
    return (height, round(width * aspect)) if aspect >= 1 else (round(height / aspect), width)


def shrunk(size: Size, long_side: int) -> Size:
    """`size` made smaller, its aspect ratio kept, until no side is longer than `long_side`."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
