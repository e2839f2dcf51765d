"""Picture files made byte by byte, or by the libraries that write them, and what they show.

`scene`: red top left, green top right, blue bottom left, over a grey ramp.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pillow_heif
from PIL import Image

from media.made import encoding

SRGB_XY = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_XY = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3_XY = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
PROPHOTO_XY = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)


def scene(width: int = 128, height: int = 96, bar: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8; `bar`: the row of a white bar."""
    ramp = np.repeat(np.linspace(40, 200, width)[None], height, 0)[..., None].repeat(3, 2)
    side = min(width, height) // 4
    ramp[:side, :side], ramp[:side, -side:], ramp[-side:, :side] = (220, 20, 20), (20, 200, 20), (20, 20, 220)
    if bar is not None:
        ramp[bar : bar + 4, side:-side] = 255
    return ramp.astype(np.uint8)


def moving(n: int, **size: int) -> list[np.ndarray]:
    return [scene(bar=24 + 4 * i, **size) for i in range(n)]


def over_white(image: Image.Image) -> np.ndarray:
    rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))


# ---- profiles ------------------------------------------------------------------------------------------


def icc(
    xy: Sequence[float],
    gamma: float | None = None,
    white: tuple[float, float] = D65,
    cicp: tuple[int, int] | None = None,
) -> bytes:
    """An ICC profile of these primaries, with a gamma, or sRGB's curve; `cicp`: primaries and transfer."""
    to_xyz = _under_d50(xy, white)
    curve = (
        b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
        if gamma
        else b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )
    xyz = {f"{c}XYZ".encode(): b"XYZ \0\0\0\0" + _fixed(*to_xyz[:, i]) for i, c in enumerate("rgb")}
    curves = {f"{c}TRC".encode(): curve for c in "rgb"}
    codes = {b"cicp": b"cicp\0\0\0\0" + bytes((*cicp, 0, 1))} if cicp else {}
    return _profile(b"RGB ", xyz | curves | codes)


def icc_grey(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))})


def icc_cmyk() -> bytes:
    """A profile with a table: ink lowers lightness, whatever its colour."""
    steps = 3
    table = []
    for c, m, y, k in np.ndindex(steps, steps, steps, steps):
        lightness = max(0.0, 1 - (c + m + y) / 3 / (steps - 1) * 0.6) * (1 - k / (steps - 1))
        table += [round(lightness * 255), 128, 128]
    ramps = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, steps, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return _profile(b"CMYK", {b"A2B0": lut + ramps * 4 + bytes(table) + ramps * 3}, space=b"Lab ")


def _profile(colours: bytes, tags: dict[bytes, bytes], space: bytes = b"XYZ ") -> bytes:
    d50 = (0.9642, 1.0, 0.8249)
    tags = tags | {b"wtpt": b"XYZ \0\0\0\0" + _fixed(*d50)}
    at = 132 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        padded = data + b"\0" * (-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += padded
    kind = b"prtr" if colours == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"test", 0x02400000, kind, colours, space, b"acsp")
    return (head.ljust(68, b"\0") + _fixed(*d50)).ljust(128, b"\0") + table + body


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def _under_d50(xy: Sequence[float], white: tuple[float, float]) -> np.ndarray:
    """RGB to XYZ, adapted to D50 by Bradford's transform."""
    column = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in (white, *zip(xy[::2], xy[1::2], strict=True))]
    to_xyz = np.stack(column[1:], 1) * np.linalg.solve(np.stack(column[1:], 1), column[0])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gain = (bradford @ [0.9642, 1, 0.8249]) / (bradford @ column[0])
    return np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ to_xyz


# ---- PNG -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, *before: bytes, kind: int | None = None) -> bytes:
    """A PNG of 1 to 4 channels, 8 or 16 bits, with chunks before its pixels."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if kind is None else kind
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    pieces = (chunk(b"IHDR", header), *before, chunk(b"IDAT", _idat(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def _idat(pixels: np.ndarray) -> bytes:
    big = pixels.astype(">u2") if pixels.itemsize == 2 else pixels
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, 1)))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 1e5)))


def chrm(xy: Sequence[float], white: tuple[float, float] = D65) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(v * 1e5) for v in (*white, *xy))))


# ---- animations ----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What changes in a frame: pixels (H W 4) at a place; `disposal` is none, clear or restore."""

    left: int
    top: int
    pixels: np.ndarray
    disposal: str = "none"
    over: bool = True
    ms: int = 100


def composed(size: tuple[int, int], parts: Iterable[Part]) -> list[np.ndarray]:
    """The frames (H W 3) as APNG's and GIF's specifications have it, over white; size is (width, height)."""
    canvas, frames = np.zeros((size[1], size[0], 4)), []
    for part in parts:
        before = canvas.copy()
        height, width = part.pixels.shape[:2]
        where = np.s_[part.top : part.top + height, part.left : part.left + width]
        room = canvas[where].shape[:2]
        new, old = part.pixels[: room[0], : room[1]] / 255.0, canvas[where]
        alpha = new[..., 3:] + old[..., 3:] * (1 - new[..., 3:])
        mixed = new[..., :3] * new[..., 3:] + old[..., :3] * old[..., 3:] * (1 - new[..., 3:])
        blended = np.concatenate([mixed / np.maximum(alpha, 1e-9), alpha], -1)
        canvas[where] = blended if part.over else new
        frames.append(
            (255 * (canvas[..., :3] * canvas[..., 3:] + 1 - canvas[..., 3:]) + 0.5).astype(np.uint8)
        )
        if part.disposal == "clear":
            canvas[where] = 0
        if part.disposal == "restore":
            canvas = before
    return frames


def apng(size: tuple[int, int], parts: Sequence[Part], hidden: np.ndarray | None = None) -> bytes:
    """`hidden`: (H W 4), a default image that is no frame."""
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)
    out = chunk(b"IHDR", header) + chunk(b"acTL", struct.pack(">II", len(parts), 0))
    if hidden is not None:
        out += chunk(b"IDAT", _idat(hidden))
    number = 0
    for i, part in enumerate(parts):
        height, width = part.pixels.shape[:2]
        codes = {"none": 0, "clear": 1, "restore": 2}[part.disposal], int(part.over)
        place = (width, height, part.left, part.top, part.ms, 1000)
        out += chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *place, *codes))
        number += 1
        if i == 0 and hidden is None:
            out += chunk(b"IDAT", _idat(part.pixels))
        else:
            out += chunk(b"fdAT", struct.pack(">I", number) + _idat(part.pixels))
            number += 1
    return b"\x89PNG\r\n\x1a\n" + out + chunk(b"IEND", b"")


PALETTE = np.array([(220, 20, 20), (20, 200, 20), (20, 20, 220), (250, 220, 10)], np.uint8)


def gif(size: tuple[int, int], parts: Sequence[Part], background: int = 3) -> bytes:
    """Pixels are opaque colours of PALETTE, or transparent: then the last colour is the transparent one."""
    out = b"GIF89a" + struct.pack("<HHBBB", *size, 0xF1, background, 0) + PALETTE.tobytes()
    for part in parts:
        distance = np.abs(part.pixels[..., None, :3].astype(int) - PALETTE).sum(-1)
        transparent = part.pixels[..., 3] == 0
        codes = np.where(transparent, 3, distance.argmin(-1))
        flags = {"none": 1, "clear": 2, "restore": 3}[part.disposal] << 2 | int(transparent.any())
        out += b"!\xf9\x04" + struct.pack("<BHBB", flags, part.ms // 10, 3, 0)
        place = (part.left, part.top, codes.shape[1], codes.shape[0])
        out += b"," + struct.pack("<HHHHB", *place, 0) + _lzw(codes.ravel().tolist())
    return out + b";"


def _lzw(codes: Sequence[int]) -> bytes:
    """Codes of 2 bits, in LZW that never grows a table: it is cleared before."""
    bits = []
    for i, code in enumerate(codes):
        bits += [4, code] if i % 2 == 0 else [code]
    stream = sum(code << 3 * i for i, code in enumerate([*bits, 5]))
    packed = stream.to_bytes((3 * (len(bits) + 1) + 7) // 8, "little")
    blocks = (packed[i : i + 255] for i in range(0, len(packed), 255))
    return b"\2" + b"".join(bytes((len(block),)) + block for block in blocks) + b"\0"


def part(left: int, top: int, size: tuple[int, int], colour: int, **how: Any) -> Part:
    """A part of one colour of PALETTE; `hole`: every other pixel is transparent; `alpha` of all of it."""
    hole, alpha = how.pop("hole", False), how.pop("alpha", 255)
    pixels = np.full((size[1], size[0], 4), (*PALETTE[colour], alpha), np.uint8)
    if hole:
        pixels[::2, ::2] = 0
    return Part(left, top, pixels, **how)


# ---- HEIC and AVIF -------------------------------------------------------------------------------------


def heic(picture: np.ndarray, orientation: int = 1, **how: Any) -> bytes:
    """As pillow-heif writes it, nearly lossless; `tile_size` makes a grid, `orientation` boxes that turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    pillow_heif.register_heif_opener()
    Image.fromarray(picture).save(sink, "HEIF", quality=95, chroma=444, exif=exif.tobytes(), **how)
    return sink.getvalue()


class Step(NamedTuple):
    """A property of a HEIF item that changes how it is shown (ISO/IEC 23008-12, 6.5), and what it does."""

    box: bytes
    apply: Callable[[np.ndarray], np.ndarray]


def turn(quarters: int) -> Step:
    """Anticlockwise."""
    return Step(_box(b"irot", bytes([quarters])), lambda picture: np.rot90(picture, quarters))


def mirror(axis: int) -> Step:
    """Axis 0 exchanges top and bottom, 1 left and right."""
    return Step(_box(b"imir", bytes([axis])), lambda picture: np.flip(picture, axis))


def crop(left: int, top: int, size: tuple[int, int], whole: tuple[int, int]) -> Step:
    """Of a picture of `whole` (width, height); the file says how far its middle is from the whole's."""
    (width, height), off = size, [2 * a - b + c for a, b, c in zip((left, top), whole, size, strict=True)]
    aperture = struct.pack(">IIIIiIiI", width, 1, height, 1, off[0], 2, off[1], 2)
    return Step(_box(b"clap", aperture), lambda picture: picture[top : top + height, left : left + width])


def heic_by_hand(picture: np.ndarray, tile: tuple[int, int], steps: Sequence[Step]) -> bytes:
    """Lossless but for its matrix: one item, or a grid of tiles (width, height), and properties in order.

    The boxes are written here, since a library that writes and reads them may be wrong twice.
    """
    (width, height), shape = tile, picture.shape[:2]
    n_rows, n_columns = -(-shape[0] // height), -(-shape[1] // width)
    room = ((0, n_rows * height - shape[0]), (0, n_columns * width - shape[1]), (0, 0))
    whole = np.pad(picture, room, "edge")
    rows = [whole[y * height :][:height] for y in range(n_rows)]
    setup, coded = _hevc([row[:, x * width :][:, :width] for row in rows for x in range(n_columns)])
    is_grid, n = len(coded) > 1, len(coded)
    items = [(b"hvc1", content, (0x81, 2, 3)) for content in coded]
    own = range(0x85, 0x85 + len(steps))  # numbers of properties; 0x80: it may not be passed over
    if is_grid:
        grid = struct.pack(">BBBBHH", 0, 0, n_rows - 1, n_columns - 1, shape[1], shape[0])
        items.append((b"grid", grid, (3, 4, *own)))
    else:
        items = [(b"hvc1", coded[0], (0x81, 2, 3, *own))]
    sizes = [_box(b"ispe", bytes(4) + struct.pack(">II", *size)) for size in (tile, shape[::-1])]
    colours = _box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 13, 6, 0x80))
    properties = [_box(b"hvcC", setup), sizes[0], colours, sizes[1], *(step.box for step in steps)]
    parts = _box(b"dimg", struct.pack(f">HH{n}H", n + 1, n, *range(1, n + 1))) if is_grid else b""
    return _heif(items, properties, parts)


def _heif(
    items: Sequence[tuple[bytes, bytes, Sequence[int]]], properties: list[bytes], parts: bytes
) -> bytes:
    """Items (kind, content, numbers of properties), the last of which is the primary one."""
    start = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    n, at = struct.pack(">H", len(items)), len(start) + 8
    places, kinds, owned = b"", b"", b""
    for number, (kind, content, own) in enumerate(items, 1):
        places += struct.pack(">HHHII", number, 0, 1, at, len(content))
        kinds += _box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", number, 0, kind) + b"\0")
        owned += struct.pack(">HB", number, len(own)) + bytes(own)
        at += len(content)
    boxes = (
        _box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
        _box(b"pitm", bytes(4) + n),
        _box(b"iloc", bytes(4) + b"\x44\0" + n + places),
        _box(b"iinf", bytes(4) + n + kinds),
        _box(b"iref", bytes(4) + parts) if parts else b"",
        _box(b"iprp", _box(b"ipco", b"".join(properties)) + _box(b"ipma", bytes(6) + n + owned)),
    )
    data = _box(b"mdat", b"".join(content for _, content, _ in items))
    return start + data + _box(b"meta", bytes(4) + b"".join(boxes))


def _hevc(tiles: Sequence[np.ndarray]) -> tuple[bytes, list[bytes]]:
    """The content of their hvcC box, and each tile's key frame; BT.601, full range."""
    file: Any = io.BytesIO()
    how = {"x265-params": "log-level=none:keyint=1:lossless=1:range=full:colormatrix=smpte170m"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=1, options=how)
        stream.height, stream.width = tiles[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        for number, tile in enumerate(tiles):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(tile), "rgb24").reformat(
                format="yuv444p", dst_colorspace="ITU601", dst_color_range="JPEG"
            )
            frame.pts, frame.time_base = number, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        setup = bytes(container.streams.video[0].codec_context.extradata)
        return setup, [bytes(packet) for packet in container.demux(video=0) if packet.size]


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def hdr_codes(white: float = 0.58, width: int = 128, height: int = 96) -> np.ndarray:
    """Codes (H W 3) uint16 of PQ or HLG of smooth colours up to `white`: 0.58 is PQ's 203 nits."""
    x, y = np.meshgrid(np.linspace(0.4, 1, width), np.linspace(0, 1, height))
    return (np.stack([x, x * (1 - 0.2 * y), x * (0.8 + 0.2 * y)], -1) * white * 65535).astype(np.uint16)


def hdr_file(path: Path, codes: np.ndarray, transfer: int, n_frames: int = 1) -> Path:
    """10 bits, BT.2020: an AVIF of one frame, or an HEVC video."""
    still = path.suffix == ".avif"
    options = {"crf": "8", "preset": "8"} if still else {"x265-params": "log-level=none:crf=8"}
    with encoding(path, format="avif" if still else None) as container:
        stream = container.add_stream("libsvtav1" if still else "libx265", rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = codes.shape[1], codes.shape[0], "yuv420p10le"
        for tagged in (stream.codec_context,):
            tagged.color_primaries, tagged.color_trc, tagged.colorspace, tagged.color_range = (
                9,
                transfer,
                9,
                1,
            )
        for i in range(n_frames):
            frame = av.VideoFrame.from_ndarray(codes, format="rgb48le")
            frame = frame.reformat(format="yuv420p10le", dst_colorspace=9)
            frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = 9, transfer, 9, 1
            frame.pts, frame.time_base = i, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _tag(what: Any, transfer: int) -> None:
    what.color_primaries, what.color_trc, what.colorspace, what.color_range = 9, transfer, 9, 1


def hdr_heic(path: Path, codes: np.ndarray, transfer: int) -> Path:
    height, width = codes.shape[:2]
    how = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9}
    with path.open("wb") as sink:
        pillow_heif.encode(
            "RGB;16", (width, height), codes.tobytes(), sink, quality=95, chroma=444, full_range_flag=0, **how
        )
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
