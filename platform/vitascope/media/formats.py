"""Media formats by their first bytes."""

import re

from vitascope.ledger import Reason, Rejected

HEAD_BYTES = 4096
"""Of a file, which `picture` and `refusal` look at."""

_PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf"}
_HEIF_SEQUENCES = {
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"msf1",
}  # a picture, a track, or both

READ = (
    "pictures in JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF, JPEG 2000 and BMP; videos in mp4, mov, Matroska, "
    "WebM, AVI, MPEG, FLV, ASF, Ogg, MXF, IVF, NUT, DV and y4m; and bare H.264, HEVC, AV1, MPEG-4, MPEG-2, "
    "Motion JPEG"
)
_NOT_READ = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"8BPS", "Photoshop (PSD)"),
    (0, b"gimp xcf", "GIMP (XCF)"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"SDPX", "DPX"),
    (0, b"XPDS", "DPX"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"IIRO", "Olympus RAW (ORF)"),
    (0, b"IIRS", "Olympus RAW (ORF)"),
    (0, b"MMOR", "Olympus RAW (ORF)"),
    (0, b"IIU\0", "Panasonic RAW (RW2)"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm RAW (RAF)"),
    (0, b"FOVb", "Sigma RAW (X3F)"),
    (0, b"\0MRM", "Minolta RAW (MRW)"),
    (4, b"ftypcrx ", "Canon RAW (CR3)"),
    (8, b"CR\2\0", "Canon RAW (CR2)"),
    (0, b".RMF", "RealMedia"),
    (0, b"PK\3\4", "ZIP"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\7", "RAR"),
)


def picture(head: bytes) -> str | None:
    """The format of a picture, as Pillow calls it, from a file's first HEAD_BYTES; None if it is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    return next((name for start, name in _PICTURES.items() if head.startswith(start)), None)


def _by_brand(head: bytes) -> str | None:
    """A picture in ISO's container (ISO/IEC 14496-12): the major brand decides, then the compatible ones."""
    major, size = head[8:12], int.from_bytes(head[:4], "big")
    brands = {head[i : i + 4] for i in range(16, min(size, len(head)), 4)}
    if major in _AVIF_BRANDS or (major in (*_HEIF_BRANDS, b"msf1") and brands & _AVIF_BRANDS):
        return "AVIF"
    return "HEIF" if major in _HEIF_BRANDS else None


def is_motion_jpeg(content: bytes) -> bool:
    """Whether a file that begins as a JPEG is a video: JPEGs of one size, one after another, and no more.

    What cameras append to a still has another size (a preview, a gain map), other data behind it (depth), or
    is mentioned in the header.
    """
    size, end = _jpeg(content, 0)
    second = _NEXT_JPEG.match(content, end)
    if not (size and second) or _TELLS_OF_PARTS.search(content, 0, end):
        return False
    other, end = _jpeg(content, second.end() - 2)
    return other == size and bool(_NEXT_JPEG.match(content, end) or not content[end:].strip(_PADDING))


_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # but restarts, which lie within coded pixels
_START, _END, _NO_SIZE = 0xD8, 0xD9, (0xC4, 0xC8, 0xCC)  # the latter among the frame headers, 0xC0 to 0xCF
_PADDING = b"\0\r\n\xff"  # of some writers
_NEXT_JPEG = re.compile(rb"[\0\r\n\xff]*\xff\xd8(?=\xff)")
_TELLS_OF_PARTS = re.compile(rb"\xff\xe2..MPF\0|http://ns\.google\.com/photos/|hdr-gain-map", re.DOTALL)
_MOST_SEGMENTS = 100_000  # of a JPEG; more of them would take the time limit to look through


def _jpeg(content: bytes, begin: int) -> tuple[bytes, int]:
    """The size of the JPEG at `begin`, as coded, and where it ends (ITU-T T.81, annex B)."""
    size, at = b"", begin + 2
    for _ in range(_MOST_SEGMENTS):
        if not (found := _MARKER.search(content, at)):
            break
        at, kind = found.end(), content[found.end() - 1]
        if kind in (_START, _END):
            return size, at if kind == _END else at - 2
        if 0xC0 <= kind <= 0xCF and kind not in _NO_SIZE:
            size = content[at + 3 : at + 7]
        at += int.from_bytes(content[at : at + 2], "big")
    return size, len(content)


def refusal(head: bytes) -> Rejected | None:
    """Why a file that begins so is not read; None if its format is a known one, or none that is known."""
    name = next((name for at, start, name in _NOT_READ if head[at : at + len(start)] == start), None)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_SEQUENCES and picture(head) is None:
        name = "HEIF image sequence"
    by_structure = {_is_pnm: "PNM (PPM, PGM, PBM, PAM, PFM)", _is_svg: "SVG", _is_ico: "ICO"}
    name = name or next((format for is_so, format in by_structure.items() if is_so(head)), None)
    return unread(name) if name else None


def unread(name: str) -> Rejected:
    """The refusal of a format."""
    return Rejected(Reason.UNREADABLE, f"format {name} is not read; these are: {READ}")


def _is_pnm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in b"1234567Ff" and head[2:3] in b"\n\r\t #" and len(head) > 3


def _is_ico(head: bytes) -> bool:
    """Not only by its first bytes, with which MPEG-4's video objects begin too."""
    return head[:4] == b"\0\0\1\0" and head[4:5] != b"\0" and head[5:6] == b"\0" and not any(head[9:10])


def _is_svg(head: bytes) -> bool:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"<") and b"<svg" in head
