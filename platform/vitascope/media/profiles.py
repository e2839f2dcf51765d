"""The colours of pictures to sRGB.

The coding of a picture's colours is, in this order: a light beyond SDR's (PQ, HLG), an ICC profile, code
points (ITU-T H.273), PNG's gamma and chromaticities. A picture without any, or in sRGB, keeps its values to
the last bit. Little CMS converts ICC profiles; neither it nor Pillow applies the others.
"""

import functools
import io
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorTrc
from PIL import Image, ImageCms

from vitascope.media import colour
from vitascope.media.boxes import boxes, chunk, chunks

# Curves of SDR by their code points; all others count as sRGB's.
_POWERS: dict[int, float] = {ColorTrc.LINEAR: 1.0, ColorTrc.GAMMA22: 2.2, ColorTrc.GAMMA28: 2.8}
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_SAME = 2  # levels: a profile that changes colours by no more is one of the many editions of sRGB's
_SRGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue
_SRGB_POWER, _NEAR = 2.2, 0.05  # as in libpng: a power within 5 % is sRGB's curve
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_ROWS = 256  # of a picture, converted at once: floats take four times the memory


@dataclass(frozen=True)
class Colours:
    """How the colours of a picture are coded, by its file.

    primaries, transfer: code points of H.273; 2 is unspecified. gamma, xy: PNG's gAMA, and its cHRM, for
    white, red, green and blue.
    """

    icc: bytes | None = None
    primaries: int = 2
    transfer: int = 2
    gamma: float | None = None
    xy: tuple[float, ...] = _SRGB_XY

    @property
    def is_hdr(self) -> bool:
        """Whether its light goes beyond SDR's white."""
        return self.transfer in colour.HDR


def colours_of(image: Image.Image, form: str, content: bytes) -> Colours:
    """The colours of a picture that is open in Pillow; `content` is its file, in the format `form`."""
    icc = image.info.get("icc_profile") or None
    if form in ("AVIF", "HEIF"):
        return Colours(icc, *_code_points_of_video(content))
    if form == "JPEG2000":
        return Colours(_icc_of_jpeg2000(content))
    if form != "PNG":
        return Colours(icc, *_code_points_of_icc(icc or b""))
    chunks = _colour_chunks(content)
    if len(chunks.get(b"cICP", b"")) == 4:
        return Colours(None, *chunks[b"cICP"][:2])
    if icc or b"sRGB" in chunks:
        return Colours(icc, *_code_points_of_icc(icc or b""))
    gamma = int.from_bytes(chunks.get(b"gAMA", b"")[:4], "big") / 1e5
    return Colours(gamma=gamma if 0.1 <= gamma <= 10 else None, xy=_xy_of(chunks.get(b"cHRM", b"")))


def _xy_of(chrm: bytes) -> tuple[float, ...]:
    """White, red, green and blue of PNG's chunk cHRM; sRGB's if it has none that span a gamut."""
    if len(chrm) != 32:
        return _SRGB_XY
    xy = tuple(v / 1e5 for v in struct.unpack(">8I", chrm))
    white, red, green, blue = (np.array(pair) for pair in zip(xy[::2], xy[1::2], strict=True))
    area = abs(np.linalg.det(np.stack([green - red, blue - red])))
    return xy if area > 0.02 and min(xy[1::2]) > 0 and white[0] > 0.1 and max(xy) < 1 else _SRGB_XY


def _code_points_of_video(content: bytes) -> tuple[int, int]:
    """Of a picture coded as a video's key frame: by the container, else by the coded stream."""
    try:
        with av.open(io.BytesIO(content), format="mov", metadata_errors="ignore") as container:
            contexts = [stream.codec_context for stream in container.streams.video]
            pairs = [(int(c.color_primaries), int(c.color_trc)) for c in contexts if c is not None]
    except av.error.FFmpegError:
        return 2, 2
    return next((pair for pair in pairs if pair != (2, 2)), (2, 2))  # a mask has none


def _code_points_of_icc(icc: bytes) -> tuple[int, int]:
    """Of an ICC profile with the tag `cicp` (ICC.1:2022, 9.2.17), which profiles of HDR have."""
    n_tags = int.from_bytes(icc[128:132], "big")
    for at in range(132, 132 + 12 * min(n_tags, 100), 12):
        if icc[at : at + 4] == b"cicp" and len(icc) >= at + 12:
            begin = int.from_bytes(icc[at + 4 : at + 8], "big") + 8
            if len(icc) >= begin + 2 and icc[begin + 1] in colour.HDR:
                return icc[begin], icc[begin + 1]
    return 2, 2


def _icc_of_jpeg2000(content: bytes) -> bytes | None:
    """The ICC profile in the box `colr` of `jp2h` (ISO/IEC 15444-1, annex I), which Pillow does not read."""
    header = next((inner for kind, inner in boxes(memoryview(content)) if kind == b"jp2h"), memoryview(b""))
    profiles = (bytes(box) for kind, box in boxes(header) if kind == b"colr")
    return next((box[3:] for box in profiles if box[:1] in (b"\2", b"\3")), None)


def _colour_chunks(content: bytes) -> dict[bytes, bytes]:
    """The undamaged chunks about colours before a PNG's pixels."""
    before = itertools.takewhile(lambda each: each.kind != b"IDAT", chunks(content))
    colours = [each for each in before if each.kind in (b"cICP", b"sRGB", b"gAMA", b"cHRM")]
    return {kind: data for kind, data, end in colours if content[:end].endswith(chunk(kind, data))}


def srgb(image: Image.Image, colours: Colours, deep: np.ndarray | None = None) -> Image.Image:
    """Any picture as 8-bit RGB in sRGB, transparency over white; HDR as `colour` maps that of videos.

    Args:
        deep: its colours (H W 3) uint16, if `image` holds them with fewer bits.
    """
    image = eight_bit(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    shown = _converted(_without_alpha(image), colours, deep)
    if alpha is None:
        return shown
    shown.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")


def remark(mode: str, colours: Colours) -> str | None:
    """What is wrong with the profile of a picture in Pillow's `mode`, which is then not used."""
    return _conversion(colours.icc, bare(mode)).problem if colours.icc and not colours.is_hdr else None


def _converted(image: Image.Image, colours: Colours, deep: np.ndarray | None) -> Image.Image:
    """An image without alpha as RGB in sRGB."""
    if colours.is_hdr:
        codes = np.asarray(image.convert("RGB")) if deep is None else deep
        return _by_rows(codes, lambda rows: _from_hdr(rows, colours))
    if colours.icc:
        conversion = _conversion(colours.icc, image.mode)
        if conversion.transform:
            return conversion.transform.apply(image.convert(conversion.mode))
    elif (light := _light(colours)) is not None:
        to_709 = _to_709(colours)
        return _by_rows(np.asarray(image.convert("RGB")), lambda rows: _encoded(light[rows] @ to_709.T))
    return image.convert("RGB")


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled down to 8 bits; other images unchanged."""
    if not image.mode.startswith("I;16"):
        return image
    codes = np.asarray(image).astype(np.uint16)
    grey = Image.fromarray((codes >> 8).astype(np.uint8))
    if "transparency" not in image.info:
        return grey
    opaque = Image.fromarray(np.where(codes == image.info["transparency"], 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, opaque))


def bare(mode: str) -> str:
    """The mode without alpha and palette."""
    if mode in ("CMYK", "LAB"):
        return mode
    return "L" if mode in ("1", "L", "LA", "La") or mode.startswith("I;16") else "RGB"


def _without_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La", "PA"):  # premultiplied, or not converted in one step
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return image.convert(bare(image.mode))


class _Conversion(NamedTuple):
    """How an ICC profile converts images of `mode` to sRGB; no transform if it is sRGB's or has a problem."""

    mode: str
    transform: ImageCms.ImageCmsTransform | None
    problem: str | None = None


@functools.lru_cache(maxsize=16)
def _conversion(icc: bytes, mode: str) -> _Conversion:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        of = _MODES.get(profile.profile.xcolor_space.strip(), profile.profile.xcolor_space)
        mode = "RGB" if (mode, of) == ("L", "RGB") else mode
        if of != mode:
            return _Conversion(mode, None, f"its ICC profile is not used: it is of {of}, the picture {mode}")
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return _Conversion(mode, None, f"its ICC profile is not used: it is damaged ({error})")
    if mode in ("RGB", "L"):
        every = _lattice(mode)
        changed = np.asarray(transform.apply(every), np.int16)
        if np.abs(changed - np.asarray(every.convert("RGB"), np.int16)).max() <= _SAME:
            return _Conversion(mode, None)
    return _Conversion(mode, transform)


def _lattice(mode: str) -> Image.Image:
    """Colours that cover the range."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 17).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3))


def _by_rows(picture: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """`function` of a few rows at a time, because its floats take much memory."""
    parts = [function(picture[begin : begin + _ROWS]) for begin in range(0, len(picture), _ROWS)]
    return Image.fromarray(np.concatenate(parts))


def _from_hdr(codes: np.ndarray, colours: Colours) -> np.ndarray:
    wide = codes if codes.dtype == np.uint16 else codes.astype(np.uint16) * 257
    return colour.to_bt709(wide, colours.transfer, colours.primaries)


def _light(colours: Colours) -> np.ndarray | None:
    """Linear light by 8-bit code value; None if colours are sRGB's."""
    power = 1 / colours.gamma if colours.gamma else _POWERS.get(colours.transfer)
    is_709 = colours.primaries not in colour.TO_709 and np.allclose(colours.xy, _SRGB_XY, atol=1e-3)
    if is_709 and (power is None or abs(power / _SRGB_POWER - 1) < _NEAR):
        return None
    code = np.linspace(0, 1, 256)
    srgb_light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return (srgb_light if power is None else code**power).astype(np.float32)


def _encoded(light: np.ndarray) -> np.ndarray:
    """Linear light as sRGB's 8-bit codes (IEC 61966-2-1)."""
    light = light.clip(0, 1)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * code + 0.5).astype(np.uint8)


def _to_709(colours: Colours) -> np.ndarray:
    """The matrix from a picture's linear RGB to BT.709's, which are sRGB's primaries too."""
    if colours.primaries in colour.TO_709:
        return np.array(colour.TO_709[colours.primaries], np.float32)
    return (np.linalg.inv(_to_xyz(_SRGB_XY)) @ _to_xyz(colours.xy)).astype(np.float32)


def _to_xyz(xy: tuple[float, ...]) -> np.ndarray:
    """From linear RGB of these chromaticities (white, red, green, blue) to XYZ under D65's white."""
    white, *primaries = (
        np.array([x / y, 1, (1 - x - y) / y]) for x, y in zip(xy[::2], xy[1::2], strict=True)
    )
    to_xyz = np.stack(primaries, axis=1)
    to_xyz = to_xyz * np.linalg.solve(to_xyz, white)
    d65 = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    cones = _BRADFORD @ np.stack([d65, white], axis=1)
    return np.linalg.inv(_BRADFORD) @ np.diag(cones[:, 0] / cones[:, 1]) @ _BRADFORD @ to_xyz
