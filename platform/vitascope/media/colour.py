"""Decoded frames to RGB pictures.

swscale converts and scales in one step. To another size than the frame's own it scales with an antialiased
bilinear filter and exact arithmetic: 52 dB from the same filter in floats, on 720p footage scaled to 180 to
477 rows (torch's on uint8 frames: 48; decord's own scaling: 41, 1.7 levels too dark). Its output is planes:
packed pixels take nearly twice as long, and its rgb48 is wrong if only the width is scaled. It maps no HDR
and no wide gamut; ffmpeg's zscale and libplacebo, which do, are not in PyAV's wheels.
"""

import functools
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from vitascope.ledger import Reason, Rejected
from vitascope.media.geometry import View, displayed

_SCALED = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_RGB, _UNSPECIFIED, _RESERVED, _BT2020_CONSTANT = 0, 2, 3, 10  # matrices by their number in ITU-T H.273
_KNOWN_MATRICES = (1, 4, 5, 6, 7, 9)

_WHITE_NITS = 203  # where HDR puts the white of SDR: ITU-R BT.2408, table 1
_PEAK_NITS = 1000  # nominal peak of HLG (BT.2100) and of most PQ masters; brighter is clipped
_DISPLAY_GAMMA = 2.4  # ITU-R BT.1886
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_FROM_2020 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
_FROM_P3 = [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]
# Linear RGB to BT.709's: ITU-R BT.2087 for BT.2020; Display P3 by its primaries, with the white D65.
TO_709: dict[int, Any] = {ColorPrimaries.BT2020: _FROM_2020, ColorPrimaries.SMPTE432: _FROM_P3}
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def to_rgb(swscale: Any, frame: av.VideoFrame, view: View, aspect: float = 1.0) -> np.ndarray:
    """`frame` as uint8 (H, W, 3), cropped and scaled by `view`.

    At its own size an SDR frame is what PyAV's `to_ndarray(format="rgb24")` returns, to the last bit, if its
    matrix is specified or it is of standard definition.

    Args:
        swscale: a `VideoReformatter`, kept for this view of one source.
        aspect: of the frame's pixels, width over height.

    Raises:
        Rejected: DECODE_FAILED if the coding of its colours is not known.
    """
    (height, width), rows, columns = view.placed(displayed((frame.height, frame.width), aspect))
    mapped, scaled = _wide(frame), (height, width) != (frame.height, frame.width)
    converted = swscale.reformat(
        frame,
        width=width,
        height=height,
        format="gbrp16le" if mapped else "gbrp" if scaled else "rgb24",
        src_colorspace=_matrix(frame),
        interpolation=_SCALED if scaled else Interpolation.BILINEAR,
        threads=1,
    )
    if mapped:
        picture = converted.to_ndarray()[rows, columns]
        return to_bt709(picture, frame.color_trc, frame.color_primaries)
    return converted.reformat(format="rgb24", threads=1).to_ndarray()[rows, columns]


def over_white(frame: av.VideoFrame) -> av.VideoFrame:
    """A frame with transparency over white, as RGB of its own size; any other unchanged.

    Alpha is straight: neither containers nor codecs specify whether it is premultiplied. It is applied before
    any scaling, so that hidden colours do not bleed into edges.
    """
    palette = frame.format.name == "pal8"  # whose colours may be transparent
    if not palette and not any(component.is_alpha for component in frame.format.components):
        return frame
    whole, kinds = (65535, ("rgba64le", "rgb48le")) if _wide(frame) else (255, ("rgba", "rgb24"))
    pixels = frame.reformat(format=kinds[0], src_colorspace=_matrix(frame), threads=1).to_ndarray()
    colour, alpha = pixels[..., :3].astype(np.uint32), pixels[..., 3:].astype(np.uint32)
    seen: Any = (colour * alpha + whole * (whole - alpha) + whole // 2) // whole
    opaque = av.VideoFrame.from_ndarray(seen.astype(pixels.dtype), format=kinds[1])
    opaque.color_trc, opaque.color_primaries = frame.color_trc, frame.color_primaries
    return opaque


def is_plain(frame: av.VideoFrame) -> bool:
    """Whether it is 8-bit 4:2:0 and its colours need no guess and no mapping: all decoders are right."""
    limited = frame.color_range != ColorRange.JPEG
    return frame.format.name == "yuv420p" and limited and _matrix(frame) is None and not _wide(frame)


def _wide(frame: av.VideoFrame) -> bool:
    """Whether its light or colours go beyond BT.709's."""
    return frame.color_trc in HDR or frame.color_primaries in TO_709


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    """The matrix to convert by if the frame specifies none; None if it does, or if 601 is meant.

    What a player does with no tag (mpv, libplacebo's `pl_color_system_guess_ycbcr`): above standard
    definition BT.709, else BT.601.
    """
    tag = frame.colorspace
    if (frame.sw_format or frame.format).is_rgb or tag in _KNOWN_MATRICES:
        return None
    if tag not in (_RGB, _UNSPECIFIED, _RESERVED, _BT2020_CONSTANT):
        raise Rejected(Reason.DECODE_FAILED, f"its colours are coded by matrix {tag} of H.273, not supported")
    if tag == _BT2020_CONSTANT or frame.color_primaries == ColorPrimaries.BT2020 or frame.color_trc in HDR:
        return Colorspace.BT2020
    if frame.width >= 1280 or frame.height > 576:
        return Colorspace.ITU709
    return None if tag == _UNSPECIFIED else Colorspace.ITU601


def to_bt709(picture: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """A wide-gamut or HDR picture (H W 3, uint16) as BT.709 SDR (uint8).

    HDR's light is compressed by its strongest channel, so that hues stay.
    """
    light = _light(transfer)[picture]
    if transfer == ColorTrc.ARIB_STD_B67:  # the display's light from the scene's: BT.2100, system gamma 1.2
        light *= (light @ _LUMA_2020)[..., None] ** 0.2 * np.float32(_PEAK_NITS / _WHITE_NITS)
    light = np.maximum(light @ np.array(TO_709.get(primaries, _default(transfer)), np.float32).T, 0)
    if transfer in HDR:
        strongest = light.max(axis=-1, keepdims=True)
        light *= np.interp(strongest, *_tone_curve()) / np.maximum(strongest, 1e-6)
    return (255 * np.minimum(light, 1) ** (1 / _DISPLAY_GAMMA) + 0.5).astype(np.uint8)


def _default(transfer: int) -> Any:
    """HDR that does not name its primaries has BT.2020's."""
    return _FROM_2020 if transfer in HDR else np.eye(3)


@functools.lru_cache
def _light(transfer: int) -> np.ndarray:
    """Linear light by 16-bit code value (65536): 1 is SDR's white; for HLG the scene's, 1 its peak."""
    code = np.linspace(0, 1, 2**16)
    if transfer == ColorTrc.SMPTE2084:
        light = _pq_to_nits(code) / _WHITE_NITS
    elif transfer == ColorTrc.ARIB_STD_B67:  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    else:
        light = code**_DISPLAY_GAMMA
    return light.astype(np.float32)


_M1, _M2, _C1, _C2, _C3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875  # BT.2100, table 4


def _pq_to_nits(code: np.ndarray) -> np.ndarray:
    root = code ** (1 / _M2)
    return 10_000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _nits_to_pq(nits: float) -> float:
    power = (nits / 10_000) ** _M1
    return float(((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2)


@functools.lru_cache
def _tone_curve() -> tuple[np.ndarray, np.ndarray]:
    """Light in and out, 1 being SDR's white: the peak is mapped to white, the lower part is unchanged.

    ITU-R BT.2390, section 5.4.1 (EETF): a Hermite spline above the knee, over PQ code values.
    """
    peak, white = _nits_to_pq(_PEAK_NITS), _nits_to_pq(_WHITE_NITS) / _nits_to_pq(_PEAK_NITS)
    code = np.linspace(0, 1, 1024)
    knee = 1.5 * white - 0.5
    t = np.maximum(code - knee, 0) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * white
    )
    mapped = np.where(code < knee, code, spline)
    return _pq_to_nits(code * peak) / _WHITE_NITS, _pq_to_nits(mapped * peak) / _WHITE_NITS
