"""Media formats by their first bytes."""

import re

from vitascope.ledger import Reason, Rejected

HEAD_BYTES = 4096
"""`picture` and `refusal` need so many bytes of a file."""

_PICTURES = re.compile(  # each group has Pillow's name of the format
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)"
    rb"|(?P<WEBP>RIFF.{4}WEBP)|(?P<TIFF>II[*+]\0|MM\0[*+])"
    rb"|(?P<JPEG2000>\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)",
    re.DOTALL,
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf"}
_HEIF_SEQUENCES = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}  # a picture, a track, or both

READ = (
    "pictures in JPEG, PNG, WebP, AVIF, HEIC, GIF, TIFF, JPEG 2000 and BMP; videos in mp4, mov, Matroska, "
    "WebM, AVI, MPEG, FLV, ASF, Ogg, MXF, IVF, NUT, DV and y4m; and bare H.264, HEVC, AV1, MPEG-4, MPEG-2, "
    "Motion JPEG"
)
_NOT_READ = {
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG XR": rb"II\xbc",
    "Photoshop (PSD)": rb"8BPS",
    "GIMP (XCF)": rb"gimp xcf",
    "PDF": rb"%PDF-",
    "PostScript": rb"%!PS",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?(RADIANCE|RGBE)",
    "QOI": rb"qoif",
    "ICNS": rb"icns",
    "DDS": rb"DDS ",
    "DPX": rb"SDPX|XPDS",
    "FITS": rb"SIMPLE  =",
    "DICOM": rb".{128}DICM",
    "DjVu": rb"AT&TFORM",
    "Olympus RAW (ORF)": rb"IIR[OS]|MMOR",
    "Panasonic RAW (RW2)": rb"IIU\0",
    "Fujifilm RAW (RAF)": rb"FUJIFILMCCD-RAW",
    "Sigma RAW (X3F)": rb"FOVb",
    "Minolta RAW (MRW)": rb"\0MRM",
    "Canon RAW (CR3)": rb".{4}ftypcrx ",
    "Canon RAW (CR2)": rb".{8}CR\x02\0",
    "RealMedia": rb"\.RMF",
    "ZIP": rb"PK\x03\x04",
    "gzip": rb"\x1f\x8b",
    "7-Zip": rb"7z\xbc\xaf\x27\x1c",
    "RAR": rb"Rar!\x1a\x07",
    "PNM (PPM, PGM, PBM, PAM, PFM)": rb"P[1-7Ff][\n\r\t #].",
    "SVG": rb"[\xef\xbb\xbf \t\r\n]*(?=<).*<svg",
    # More than its first bytes, with which MPEG-4's video objects begin too.
    "ICO": rb"\0\0\x01\0[^\0]\0(.{3}\0|.{0,3}\Z)",
}


def picture(head: bytes) -> str | None:
    """Pillow's name of a picture's format, by a file's first HEAD_BYTES; None if it is no picture."""
    if head[4:8] == b"ftyp":
        return _by_brand(head)
    match = _PICTURES.match(head)
    return match and match.lastgroup


def _by_brand(head: bytes) -> str | None:
    """A picture in ISO's container (ISO/IEC 14496-12): the major brand decides, then the compatible ones."""
    major, size = head[8:12], int.from_bytes(head[:4], "big")
    brands = {head[i : i + 4] for i in range(16, min(size, len(head)), 4)}
    if major in _AVIF_BRANDS or (major in (*_HEIF_BRANDS, b"msf1") and brands & _AVIF_BRANDS):
        return "AVIF"
    return "HEIF" if major in _HEIF_BRANDS else None


def is_motion_jpeg(content: bytes) -> bool:
    """Whether a file that begins as a JPEG is a video: JPEGs of one size, one after another, and no more.

    A picture that cameras append to a still has another size (a preview, a gain map), is followed by other
    data (depth), or is listed in the header.
    """
    size, end = _jpeg(content, 0)
    second = _NEXT_JPEG.match(content, end)
    if not (size and second) or _TELLS_OF_PARTS.search(content, 0, end):
        return False
    other, end = _jpeg(content, second.end() - 2)
    return other == size and bool(_NEXT_JPEG.match(content, end) or not content[end:].strip(_PADDING))


_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # without restarts, which lie within coded pixels
_START, _END, _NO_SIZE = 0xD8, 0xD9, (0xC4, 0xC8, 0xCC)  # the latter among the frame headers, 0xC0 to 0xCF
_PADDING = b"\0\r\n\xff"  # of some writers
_NEXT_JPEG = re.compile(rb"[\0\r\n\xff]*\xff\xd8(?=\xff)")
_TELLS_OF_PARTS = re.compile(rb"\xff\xe2..MPF\0|http://ns\.google\.com/photos/|hdr-gain-map", re.DOTALL)
_MOST_SEGMENTS = 100_000  # of a JPEG; looking through more would take the whole time limit


def _jpeg(content: bytes, begin: int) -> tuple[bytes, int]:
    """The size of the JPEG at `begin`, as coded, and where it ends (ITU-T T.81, annex B)."""
    size, at = b"", begin + 2
    for _ in range(_MOST_SEGMENTS):
        if not (marker := _MARKER.search(content, at)):
            break
        at, kind = marker.end(), content[marker.end() - 1]
        if kind in (_START, _END):
            return size, at if kind == _END else at - 2
        if 0xC0 <= kind <= 0xCF and kind not in _NO_SIZE:
            size = content[at + 3 : at + 7]
        at += int.from_bytes(content[at : at + 2], "big")
    return size, len(content)


def refusal(head: bytes) -> Rejected | None:
    """Why a file that begins so is not read; None if its format is read, or unknown."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_SEQUENCES and picture(head) is None:
        return unread("HEIF image sequence")
    names = (name for name, begin in _NOT_READ.items() if re.match(begin, head, re.DOTALL))
    return next(map(unread, names), None)


def unread(name: str) -> Rejected:
    """The refusal of a format."""
    return Rejected(Reason.UNREADABLE, f"format {name} is not read; these are: {READ}")
