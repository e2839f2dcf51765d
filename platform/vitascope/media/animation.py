"""GIF and APNG: frames as browsers compose them.

Pillow reads the parts only: unless a GIF has a transparent colour, Pillow and ffmpeg clear to its background
colour, which browsers never show; and Pillow blends half-transparent parts of an APNG with errors of up to
160 levels. WebP and AVIF are composed by libwebp and libavif.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from PIL import Image

from vitascope.media import profiles
from vitascope.media.boxes import PNG, Chunk, chunk, chunks

_MAX_PIXELS = 2**26  # as of a video's frame


class Disposal(Enum):
    """The fate of a part when its time is over."""

    KEEP = 0
    CLEAR = 1
    RESTORE = 2


@dataclass(frozen=True)
class Part:
    """The change of a frame: a picture file of its own, and its position."""

    content: bytes
    left_top: tuple[int, int]
    duration_ms: float
    disposal: Disposal
    replaces: bool  # with its transparent pixels too; else it is blended over the frame before


class Animation:
    """Frames made of parts, one over the other. `frame` is cheap for ascending numbers."""

    def __init__(self, size: tuple[int, int], parts: list[Part]) -> None:
        if not 0 < size[0] * size[1] <= _MAX_PIXELS:
            raise OSError(f"an animation of {size[0]}x{size[1]} pixels")
        self.size, self._parts = size, parts
        self.durations_ms = [part.duration_ms for part in parts]
        self._wind_back()

    def _wind_back(self) -> None:
        self._number = -1
        self._before = self._shown = Image.new("RGBA", self.size)

    def frame(self, number: int) -> Image.Image:
        """The frame (RGBA). Raises Pillow's exceptions if its part, or one before it, is damaged."""
        if number < self._number:
            self._wind_back()
        while self._number < number:
            self._show_next()
        return self._shown

    def _show_next(self) -> None:
        base = self._disposed()
        part = self._parts[self._number + 1]
        with Image.open(io.BytesIO(part.content), formats=("GIF", "PNG")) as image:
            picture = profiles.eight_bit(image).convert("RGBA")
        shown = base.copy()
        if part.replaces:
            shown.paste(picture, part.left_top)
        else:
            layer = Image.new("RGBA", self.size)
            layer.paste(picture, part.left_top)
            shown.alpha_composite(layer)
        self._before, self._shown, self._number = base, shown, self._number + 1

    def _disposed(self) -> Image.Image:
        """The picture under the next part."""
        if self._number < 0:
            return self._shown
        part = self._parts[self._number]
        if part.disposal is Disposal.RESTORE:
            return self._before
        if part.disposal is Disposal.CLEAR:
            left, top = part.left_top
            width, height = _size_of(part.content)
            cleared = self._shown.copy()
            cleared.paste((0, 0, 0, 0), (left, top, left + width, top + height))
            return cleared
        return self._shown


def _size_of(content: bytes) -> tuple[int, int]:
    """Width and height in the header of a GIF or PNG."""
    if content.startswith(PNG):
        return struct.unpack_from(">II", content, len(PNG) + 8)
    return struct.unpack_from("<HH", content, 6)


def gif(content: bytes) -> Animation:
    """The frames of a GIF; a still one has one.

    Raises:
        OSError, struct.error: it is no GIF, or is cut short before its first picture.
    """
    screen = struct.unpack_from("<HH", content, 6)
    parts = list(_gif_parts(content))
    if not parts:
        raise OSError("a GIF without a picture")
    first = zip(screen, parts[0].left_top, _size_of(parts[0].content), strict=True)
    width, height = (max(side, begin + n) for side, begin, n in first)  # later parts are cut off
    return Animation((width, height), parts)


def _gif_parts(content: bytes) -> Iterator[Part]:
    at = 13 + _palette_bytes(content[10])
    version, screen, palette = content[:6], content[10:13], content[13:at]
    control = (0, 0, 0)
    while content[at : at + 1] in (b"!", b",", b"\0"):
        begin = at
        if content[begin] == 0:  # padding of sloppy writers
            at += 1
        elif content[begin : begin + 3] == b"!\xf9\x04":
            control = struct.unpack_from("<BHB", content, begin + 3)
            at = _after_blocks(content, begin + 2)
        elif content[begin : begin + 1] == b"!":
            at = _after_blocks(content, begin + 2)
        else:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", content, begin + 1)
            at = _after_blocks(content, begin + 11 + _palette_bytes(flags))
            transparent = b"!\xf9\4" + struct.pack("<BHBB", control[0] & 1, 0, control[2], 0)
            image = b"," + struct.pack("<HHHH", 0, 0, width, height) + content[begin + 9 : at]
            own_screen = struct.pack("<HH", width, height) + screen
            whole = b"".join((version, own_screen, palette, transparent, image, b";"))
            disposal = _GIF_DISPOSAL.get(control[0] >> 2 & 7, Disposal.KEEP)
            yield Part(whole, (left, top), 10 * control[1], disposal, replaces=False)
            control = (0, 0, 0)


_GIF_DISPOSAL = {2: Disposal.CLEAR, 3: Disposal.RESTORE, 4: Disposal.RESTORE}


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _after_blocks(content: bytes, at: int) -> int:
    """The end of the sub-blocks that begin at `at`, or of a file cut short within them."""
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1


def apng(content: bytes) -> Animation | None:
    """The frames of an animated PNG, or None for a still one (PNG, third edition, 4.9).

    The default image, IDAT, is a frame only if a frame's control chunk is before it.

    Raises:
        OSError, ValueError, struct.error: its animation breaks the format's rules.
    """
    every = list(chunks(content))
    kinds = [each.kind for each in every]
    if b"IDAT" not in kinds or b"acTL" not in kinds[: kinds.index(b"IDAT")] or b"fcTL" not in kinds:
        return None
    header, before = every[0].data, every[1 : kinds.index(b"IDAT")]
    shared = b"".join(chunk(kind, data) for kind, data, _ in before if kind not in (b"acTL", b"fcTL"))
    begins = [number for number, kind in enumerate(kinds) if kind == b"fcTL"]
    parts = [
        _apng_part(every[begin:end], header, shared)
        for begin, end in itertools.pairwise([*begins, len(every)])
    ]
    if parts[0].disposal is Disposal.RESTORE:
        parts[0] = replace(parts[0], disposal=Disposal.CLEAR)
    size = struct.unpack_from(">II", header)
    for part in parts:
        ends = [begin + n for begin, n in zip(part.left_top, _size_of(part.content), strict=True)]
        if ends[0] > size[0] or ends[1] > size[1]:
            raise OSError("a frame of its animation lies outside of the picture")
    return Animation(size, parts)


def _apng_part(own: list[Chunk], header: bytes, shared: bytes) -> Part:
    _, width, height, left, top, num, den, disposal, blend = struct.unpack(">IIIIIHHBB", own[0].data)
    data = b"".join(d[4:] if kind == b"fdAT" else d for kind, d, _ in own if kind in (b"IDAT", b"fdAT"))
    own_header = struct.pack(">II", width, height) + header[8:]
    pieces = (chunk(b"IHDR", own_header), shared, chunk(b"IDAT", data), chunk(b"IEND", b""))
    duration_ms = 1000 * num / (den or 100)
    return Part(PNG + b"".join(pieces), (left, top), duration_ms, Disposal(disposal), replaces=blend == 0)
