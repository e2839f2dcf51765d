"""Sizes of pictures: displayed, covering, shrunk.

All sizes are (height, width) in pixels.
"""

CROP_RULE = "swscale bilinear to cover, centre crop, BT.709"
"""Names what becomes of a frame that is asked for at a size; part of the latents' fingerprint."""

Size = tuple[int, int]


def cover(size: Size, target: Size) -> tuple[Size, slice, slice]:
    """The size to scale `size` to so that it just covers `target`, and the rows and columns to keep of it."""
    scale = max(target[0] / size[0], target[1] / size[1])
    height, width = (max(t, round(s * scale)) for s, t in zip(size, target, strict=True))
    top, left = (height - target[0]) // 2, (width - target[1]) // 2
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
