"""Formats by their first bytes."""

from pathlib import Path

import pytest

from media.picture_files import written
from vitascope.ledger import Reason, Rejected
from vitascope.media import formats
from vitascope.media.probe import probe


@pytest.mark.parametrize(
    ("begin", "name"),
    [
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop (PSD)"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"v/1\x01\2\0\0\0", "OpenEXR"),
        (b"qoif\0\0\0\x40", "QOI"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"P6\n64 64\n255\n", "PNM"),
        (b"II*\0\x10\0\0\0CR\2\0", "Canon RAW (CR2)"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "Canon RAW (CR3)"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0mif1heic", "HEIF image sequence"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc", "HEIF image sequence"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAW (RAF)"),
        (b"IIU\0\x18\0\0\0", "Panasonic RAW (RW2)"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, begin: bytes, name: str) -> None:
    with pytest.raises(Rejected, match="is not read; these are: pictures in JPEG, PNG") as rejected:
        probe(str(written(tmp_path / "a.mp4", begin + bytes(200))))
    assert rejected.value.reason == Reason.UNREADABLE
    assert rejected.value.detail.startswith(f"format {name}")


@pytest.mark.parametrize("text", [b"Plain text.\n" * 50, b"\x93\x17" * 100, b"<html>" * 50, b"P4ssword: x"])
def test_other_files_are_not_taken_for_a_format(text: bytes) -> None:
    assert formats.refusal(text) is None
    assert formats.picture(text) is None


@pytest.mark.parametrize(
    ("brands", "form"),
    [
        (b"avif....mif1", "AVIF"),
        (b"mif1....avifmiaf", "AVIF"),
        (b"msf1....avis", "AVIF"),
        (b"heic....mif1", "HEIF"),
        (b"mif1....heic", "HEIF"),
        (b"isom....mif1avif", None),
        (b"hevc....heic", None),
    ],
)
def test_brands_tell_pictures_from_videos(brands: bytes, form: str | None) -> None:
    head = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands
    assert formats.picture(head) == form
