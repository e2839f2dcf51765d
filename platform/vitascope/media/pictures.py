"""Open pictures, still and moving, and their frames by timestamp.

Pillow reads them; HEIC through pillow-heif (libheif), which joins the tiles of phones' pictures, turns,
mirrors and crops them, and takes the primary one of several. ffmpeg returns each tile as a video. Neither
refuses what it shows in part (pages, RAW previews), nor keeps the colours of PNG and HDR, so this is done
here.
"""

import functools
import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
import pillow_heif
from PIL import Image, UnidentifiedImageError

from vitascope.ledger import Reason, Rejected
from vitascope.media import animation, formats, profiles, tars
from vitascope.media.boxes import PNG, chunks
from vitascope.media.clock import HOLD_S, LONGEST_S, TIME_TOLERANCE_S
from vitascope.media.geometry import Seen, Size, View

pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)

# By EXIF orientation: what makes the picture upright, and the clockwise turn in it.
_UPRIGHT: dict[int, tuple[Image.Transpose | None, int]] = {
    1: (None, 0),
    2: (Image.Transpose.FLIP_LEFT_RIGHT, 0),
    3: (Image.Transpose.ROTATE_180, 180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, 180),
    5: (Image.Transpose.TRANSPOSE, 90),
    6: (Image.Transpose.ROTATE_270, 90),
    7: (Image.Transpose.TRANSVERSE, 270),
    8: (Image.Transpose.ROTATE_90, 270),
}
_ORIENTATION = 0x0112
_TWO_JPEGS_BYTES = 64 << 20  # searched for a second JPEG; a Motion JPEG may be larger than the memory
# ffmpeg's formats; cv2's libpng fails once Pillow's zlib is loaded. Of an AVIF in tiles, ffmpeg gives one
# tile.
_DEEP = {"PNG": "png_pipe", "AVIF": "mov"}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)  # what Pillow raises for damaged pixels


class Picture:
    """A picture's facts and its frames: upright, in sRGB, with transparency over white.

    durations_s: how long each frame of a moving picture is shown, without its loops; empty for a still one,
    also for an animation of one frame.
    """

    def __init__(self, content: bytes, form: str) -> None:
        self._content, self._form = content, form
        self._image = _opened(content, form)
        self._parts = _parts(content, form)
        self.durations_s = [_shown_s(ms) for ms in self._durations_ms()]
        self._upright, self.rotation_deg = _UPRIGHT[self._orientation()]
        self._colours = profiles.colours_of(self._image, form, content)
        self.remark = profiles.remark(self._image.mode, self._colours)

    @property
    def codec(self) -> str:
        """Its format."""
        return self._form.lower()

    @property
    def size(self) -> Size:
        """Height and width, upright."""
        width, height = self._parts.size if self._parts else self._image.size
        return (height, width) if self.rotation_deg % 180 == 0 else (width, height)

    def frame(self, number: int = 0) -> Image.Image:
        """A frame (RGB). Raises one of Pillow's exceptions if it, or one that it builds on, is damaged."""
        if self._parts:
            composed = self._parts.frame(number)
            is_grey = self._form == "PNG" and profiles.bare(self._image.mode) == "L"
            image = profiles.srgb(composed.convert("LA") if is_grey else composed, self._colours)
        else:
            if self.durations_s:
                self._image.seek(number)
            self._image.load()
            image = profiles.srgb(self._image, self._colours, None if self.durations_s else self._deep)
        return image if self._upright is None else image.transpose(self._upright)

    def _durations_ms(self) -> list[float]:
        """Of all frames of a moving picture. WebP and AVIF have them only once they are decoded."""
        if self._parts:
            return self._parts.durations_ms if len(self._parts.durations_ms) > 1 else []
        n_frames = getattr(self._image, "n_frames", 1)
        if self._form not in ("WEBP", "AVIF") or n_frames == 1:
            return []
        durations_ms = []
        for number in range(n_frames):
            self._image.seek(number)
            self._image.load()
            durations_ms.append(self._image.info.get("duration", 0))
        return durations_ms

    def _orientation(self) -> int:
        """By EXIF, 1 if that is damaged. Pillow turns TIFF itself, browsers no moving picture but AVIF."""
        if self._form == "TIFF" or (self.durations_s and self._form != "AVIF"):
            return 1
        try:
            orientation = self._image.getexif().get(_ORIENTATION, 1)
        except Exception:  # whatever its bytes lead to; the picture is whole
            return 1
        return orientation if orientation in _UPRIGHT else 1

    @functools.cached_property
    def _deep(self) -> np.ndarray | None:
        """The colours (H W 3) uint16 of an HDR picture, of which Pillow returns 8 bits."""
        if not self._colours.is_hdr:
            return None
        file, codes = io.BytesIO(self._content), None
        container: Any
        if self._form == "HEIF":
            codes = np.asarray(pillow_heif.open_heif(file, convert_hdr_to_8bit=False))[..., :3]
        elif self._form in _DEEP:
            with av.open(file, format=_DEEP[self._form], metadata_errors="ignore") as container:
                codes = next(container.decode(video=0)).to_ndarray(format="rgb48le")
        shape = (self._image.height, self._image.width, 3)
        return codes if codes is not None and (codes.shape, codes.dtype) == (shape, np.uint16) else None


def _opened(content: bytes, form: str) -> Image.Image:
    image: Image.Image | None
    try:
        image = Image.open(io.BytesIO(content), formats=(form,))
    except UnidentifiedImageError:
        image = _avif_of_ffmpeg(content) if form == "AVIF" else None
        if image is None:
            raise Rejected(Reason.UNREADABLE, f"no decoder opens it; it begins as {form}") from None
    if image.mode in ("I", "F"):
        detail = f"its samples are numbers of 32 bits ({image.mode}), whose black and white are not known"
        raise Rejected(Reason.UNREADABLE, detail)
    if form == "PNG":  # several as ffmpeg's image2pipe writes them
        end = next((each.end for each in chunks(content) if each.kind == b"IEND"), len(content))
        if content[end : end + formats.HEAD_BYTES].lstrip(b"\0\r\n").startswith(PNG):
            raise Rejected(Reason.UNREADABLE, "several PNGs in one file; give each as a file of its own")
    if form == "TIFF":
        _check_tiff(image)
    return image


def _check_tiff(image: Any) -> None:
    """Refuses a TIFF that is more than its first page: in camera RAW that is a preview."""
    tags = image.tag_v2
    is_preview = tags.get(_SUBFILE, 0) & _REDUCED or (_MAKE in tags and _SUB_IFDS in tags)
    if is_preview or _DNG in tags:
        raise formats.unread("camera RAW (DNG, NEF, ARW, …)")
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:  # Pillow shows the negative
        detail = "a TIFF of 16-bit grey whose white is 0 is not read; save it as PNG"
        raise Rejected(Reason.UNREADABLE, detail)
    pages = []
    for number in range(image.n_frames):
        image.seek(number)
        pages.append(image.tag_v2.get(_SUBFILE, 0) & (_REDUCED | _MASK) == 0)
    image.seek(0)
    if sum(pages) > 1:
        raise Rejected(Reason.UNREADABLE, f"a TIFF of {sum(pages)} pages; give each as a file of its own")


# Tags of TIFF, and bits in _SUBFILE.
_SUBFILE, _PHOTOMETRIC, _MAKE, _SUB_IFDS, _DNG = 254, 262, 271, 330, 50706
_REDUCED, _MASK = 1, 4


def _avif_of_ffmpeg(content: bytes) -> Image.Image | None:
    """A still AVIF that libavif refuses, if it is simple: a coded picture, or one and a mask of its size."""
    if any(box in content for box in (b"irot", b"imir", b"clap", b"grid", b"iovl", b"moov")):
        return None
    container: Any
    try:
        with av.open(io.BytesIO(content), format="mov", metadata_errors="ignore") as container:
            packets = list(container.demux(container.streams.video))
            decoded = {packet.stream.index: frame for packet in packets for frame in packet.decode()}
    except av.error.FFmpegError:
        return None
    frames = [decoded[number] for number in sorted(decoded)]
    if not 1 <= len(frames) <= 2 or len({(f.width, f.height) for f in frames}) > 1:
        return None
    picture = Image.fromarray(frames[0].to_ndarray(format="rgb24"))
    if len(frames) == 2:
        picture.putalpha(Image.fromarray(frames[1].to_ndarray(format="gray")))
    return picture


def _parts(content: bytes, form: str) -> animation.Animation | None:
    try:
        if form == "GIF":
            return animation.gif(content)
        return animation.apng(content) if form == "PNG" else None
    except (struct.error, ValueError, IndexError, OSError) as error:
        raise Rejected(Reason.UNREADABLE, f"its frames cannot be separated: {error}") from None


def _shown_s(duration_ms: float) -> float:
    """How long browsers show a frame: 100 ms if its file says 10 ms or less."""
    return min((duration_ms if duration_ms > 10 else 100) / 1000, LONGEST_S)


def open_picture(uri: str) -> Picture | None:
    """The picture in a file; None if it holds something else.

    Raises:
        Rejected: UNREADABLE, also for a known format that is not read.
    """
    with tars.open_file(uri) as file:
        head = file.read(formats.HEAD_BYTES)
        if refusal := formats.refusal(head):
            raise refusal
        form = formats.picture(head)
        if form is None:
            return None
        content = head + file.read(_TWO_JPEGS_BYTES)
        if form == "JPEG" and formats.is_motion_jpeg(content):
            return None
        return Picture(content + file.read(), form)


class PillowReader:
    """A picture: the frame on screen at a time; of a still one, the same at every time."""

    def __init__(self, uri: str) -> None:
        picture = open_picture(uri)
        if picture is None:
            raise Rejected(Reason.DECODE_FAILED, "it is no picture any more")
        self._picture = picture
        ends_s = np.cumsum(picture.durations_s or [np.inf])
        self._starts_s, self.end_s = np.concatenate([[0.0], ends_s[:-1]]), float(ends_s[-1])
        self._damaged_from = len(ends_s)

    def pictures(self, times_s: np.ndarray, views: Sequence[View]) -> Iterator[Seen | None]:
        last, seen = -1, None  # type: int, Seen | None
        for time_s in times_s[times_s <= self.end_s + HOLD_S]:
            number = int(np.searchsorted(self._starts_s, time_s + TIME_TOLERANCE_S, side="right")) - 1
            if number != last:
                last, image, seen = number, self._frame(number), None
                if image is not None:
                    seen = Seen([_seen(image, view) for view in views], (image.height, image.width))
            yield seen

    def _frame(self, number: int) -> Image.Image | None:
        """A frame; of a moving picture, None from the first damaged one on."""
        if number >= self._damaged_from:
            return None
        try:
            return self._picture.frame(number)
        except _DAMAGE:
            if not self._picture.durations_s:
                raise
            self._damaged_from = number
            return None


def _seen(image: Image.Image, view: View) -> np.ndarray:
    """An image as uint8 (H W 3), scaled and cropped as `to_rgb` does, with Pillow's antialiased filter."""
    (height, width), rows, columns = view.placed((image.height, image.width))
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))[rows, columns]
