"""What kind of picture a file is, and what of it is passed over or refused."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image, TiffImagePlugin

from media import picture_files as files
from media.called_in_child import late_once
from media.made import read_clip
from media.picture_files import part, written
from vitascope.clips.analysis import scan as scanning
from vitascope.clips.analysis.derive import clips_of
from vitascope.clips.analysis.scan import scan
from vitascope.clips.analysis.series import of_row
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.ledger import Reason, Rejected
from vitascope.media.formats import is_motion_jpeg
from vitascope.media.probe import probe

SCENE = files.scene()


def shown(path: Path, n_frames: int = 1, fps: float = 8.0) -> np.ndarray:
    row = probe(str(path))
    how = {"decoder": row.decoder}
    return read_clip(str(path), n_frames=n_frames, fps=fps, **how)


def refused(path: Path) -> str:
    with pytest.raises(Rejected) as rejected:
        probe(str(path))
    assert rejected.value.reason == Reason.UNREADABLE
    return rejected.value.detail


def encoded(form: str, picture: np.ndarray = SCENE, **how: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, form, **how)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gif", files.gif((64, 64), [part(0, 0, (64, 64), 1)])),
        ("a.png", files.apng((64, 64), [part(0, 0, (64, 64), 1)])),
        ("hidden.png", files.apng((64, 64), [part(0, 0, (64, 64), 1)], np.zeros((64, 64, 4), np.uint8))),
        ("a.heic", files.heic(np.full((64, 64, 3), files.PALETTE[1], np.uint8))),
    ],
)
def test_one_frame_is_an_image(tmp_path: Path, name: str, data: bytes) -> None:
    path = written(tmp_path / name, data)
    row = probe(str(path))
    assert (row.kind, row.n_frames, row.duration_s, row.fps) == ("image", 1, 0, None)
    assert np.abs(shown(path)[0].astype(int) - files.PALETTE[1]).max() <= 2


@pytest.mark.parametrize(("ms", "seconds"), [(0, 0.1), (10, 0.1), (20, 0.02), (250, 0.25)])
@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_frames_are_shown_as_long_as_browsers_do(
    tmp_path: Path, suffix: str, ms: int, seconds: float
) -> None:
    parts = [part(0, 0, (64, 64), i % 3, ms=ms) for i in range(4)]
    make = files.gif if suffix == "gif" else files.apng
    row = probe(str(written(tmp_path / f"a.{suffix}", make((64, 64), parts))))
    assert row.duration_s == pytest.approx(4 * seconds)


def test_a_moving_picture_is_damaged_from_its_first_damaged_part_on(tmp_path: Path) -> None:
    parts = [part(0, 0, (64, 64), i % 3, ms=1000) for i in range(5)]
    data = files.gif((64, 64), parts)
    path = written(tmp_path / "a.gif", data[: int(len(data) * 0.7)])
    row = scan(Item(str(path), "a.gif", "1", 1), ClipsSettings())
    good = np.isfinite(of_row(row)["brightness"])
    assert clips_of(row, ClipsSettings())[-1].outcome["detail"] == "its frames end before 3.00 s"
    assert (row["status"], row["n_frames"], good.sum()) == ("ok", 4, 24)


def broken_exif(form: str) -> bytes:
    """A picture whose EXIF says nine entries and has part of one."""
    tiff = b"MM\0*\0\0\0\x08\0\x09\x01\x0f\0\x02\0\0\0\x20\0\0\0\x26"
    if form == "JPEG":
        jpeg, app1 = encoded("JPEG", quality=95), b"Exif\0\0" + tiff
        return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + jpeg[2:]
    if form == "WEBP":
        return encoded("WEBP", lossless=True, exif=b"Exif\0\0" + tiff[:12])
    if form == "eXIf":
        return files.png(SCENE, files.chunk(b"eXIf", tiff))
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      12\nnothex!!zz\n")
    return files.png(SCENE, files.chunk(b"zTXt", text))


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "eXIf", "zTXt"])
def test_a_picture_with_damaged_exif_is_used_unturned(tmp_path: Path, form: str) -> None:
    got = shown(written(tmp_path / "a", broken_exif(form)))[0]
    assert got.shape == SCENE.shape
    assert np.abs(got.astype(int) - SCENE).mean() < 2


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_nothing_has_is_none(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(shown(written(tmp_path / "a", encoded("PNG", exif=exif)))[0], SCENE)


def avif(break_at: bytes, n_frames: int) -> bytes:
    """With alpha, and with a property that libavif refuses."""
    images = [Image.fromarray(np.dstack([SCENE, np.full((96, 128), 255, np.uint8)])) for _ in range(n_frames)]
    for image in images:
        image.paste((0, 0, 0, 0), (40, 30, 100, 70))
    sink = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:], "duration": 125} if n_frames > 1 else {}
    images[0].save(sink, "AVIF", quality=90, **more)
    data = bytearray(sink.getvalue())
    at = data.index(break_at)
    while at > 0:
        data[at + 8] = 4  # planes: more than the box has
        at = data.find(break_at, at + 4)
    return bytes(data)


def test_an_avif_that_libavif_refuses_is_read_by_ffmpeg_over_white(tmp_path: Path) -> None:
    path = written(tmp_path / "a.avif", avif(b"pixi", 1))
    assert probe(str(path)).kind == "image"
    got = shown(path)[0].astype(int)
    assert np.abs(got[35:65, 45:95] - 255).max() <= 2
    assert np.abs(got[2:20, 2:20] - SCENE[2:20, 2:20]).max() <= 6


def test_an_animated_avif_that_libavif_refuses_is_refused(tmp_path: Path) -> None:
    assert "AVIF" in refused(written(tmp_path / "a.avif", avif(b"pixi", 4)))


def jpeg(size: tuple[int, int] = (128, 96), **how: Any) -> bytes:
    return encoded("JPEG", files.scene(*size), quality=95, **how)


def thumbnail() -> bytes:
    """EXIF with two pictures in it, end to end, as large as the one they are in."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0" + jpeg() + jpeg()


@pytest.mark.parametrize(
    "data",
    [
        jpeg() + b"anything" * 1000,
        jpeg() + jpeg((64, 48)),
        jpeg(exif=thumbnail()),
        encoded("MPO", save_all=True, append_images=[Image.fromarray(SCENE[::-1])], quality=95),
        jpeg(xmp=b'<x xmlns:Container="http://ns.google.com/photos/1.0/container/">') + jpeg(),
    ],
    ids=["bytes after its end", "a preview", "thumbnails", "MPO", "Google's container"],
)
def test_a_jpeg_with_more_in_its_file_is_a_still(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "a.jpg", data)
    assert probe(str(path)).kind == "image"
    assert np.abs(shown(path)[0].astype(int) - SCENE).mean() < 2


@pytest.mark.parametrize("between", [b"", bytes(7), b"\r\n", b"\xff"], ids=["", "zeros", "newline", "fill"])
@pytest.mark.parametrize(
    "how", [{}, {"exif": thumbnail()}, {"progressive": True}], ids=["plain", "thumbnails", "progressive"]
)
def test_jpegs_end_to_end_are_a_video(tmp_path: Path, between: bytes, how: dict[str, Any]) -> None:
    pictures = [files.scene(bar=24 + 16 * k) for k in range(3)]
    data = between.join(encoded("JPEG", picture, quality=95, **how) for picture in pictures)
    path = written(tmp_path / "a.jpg", data)
    row = probe(str(path))
    assert (row.kind, row.codec, row.n_frames, row.fps) == ("video", "mjpeg", 3, 25)
    for frame, picture in zip(shown(path, 3, 25.0), pictures, strict=True):
        assert np.abs(frame.astype(int) - picture).mean() < 4


def test_pngs_end_to_end_are_refused(tmp_path: Path) -> None:
    assert "several PNGs" in refused(written(tmp_path / "a.png", files.png(SCENE) * 3))
    assert "several PNGs" in refused(written(tmp_path / "b.png", b"\0".join([files.png(SCENE)] * 2)))
    two = files.png(SCENE) * 2
    inside = struct.pack(">I", len(two)) + b"prVt" + two + struct.pack(">I", zlib.crc32(b"prVt" + two))
    header = files.png(SCENE)[: 8 + 25]
    for n, content in enumerate([files.png(SCENE) + b"more", header + inside + files.png(SCENE)[8 + 25 :]]):
        assert probe(str(written(tmp_path / f"{n}.png", content))).kind == "image"


@pytest.mark.parametrize("more", [b"\0edof\0" + bytes(64), b"depth"])
def test_a_second_jpeg_with_other_data_behind_it_is_no_video(tmp_path: Path, more: bytes) -> None:
    path = written(tmp_path / "a.jpg", encoded("JPEG") * 2 + more)
    assert probe(str(path)).kind == "image"


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xd9" * 2, b"\xff\xd8" + b"\xff\xfe\0\0" * (1 << 22)])
def test_what_only_looks_like_jpegs_is_no_video_and_costs_no_time(content: bytes) -> None:
    started = time.process_time()
    assert not is_motion_jpeg(content)
    assert time.process_time() - started < 2


def tiff(**tags: Any) -> bytes:
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        entries[int(number.removeprefix("t"))] = value
    return encoded("TIFF", tiffinfo=entries)


@pytest.mark.parametrize(
    "data", [tiff(t50706=b"\1\4\0\0"), tiff(t254=1)], ids=["dng", "a preview in its first page"]
)
def test_camera_raw_does_not_become_its_preview(tmp_path: Path, data: bytes) -> None:
    assert refused(written(tmp_path / "a.dng", data)).startswith("format camera RAW")


def test_tiffs_that_are_no_one_picture_are_refused(tmp_path: Path) -> None:
    other = Image.fromarray(SCENE[::-1])
    pages = encoded("TIFF", save_all=True, append_images=[other, other])
    assert "3 pages" in refused(written(tmp_path / "a.tif", pages))
    floats = io.BytesIO()
    Image.fromarray(SCENE[..., 0].astype(np.float32)).save(floats, "TIFF")
    assert "32 bits" in refused(written(tmp_path / "b.tif", floats.getvalue()))


def grey_tiff(codes: np.ndarray, photometric: int, more: dict[int, int] | None = None) -> bytes:
    (height, width), data = codes.shape, codes.tobytes()
    sizes = {256: width, 257: height, 258: 8 * codes.itemsize, 259: 1, 262: photometric}
    tags = sizes | {273: 8, 277: 1, 278: height, 279: len(data)} | (more or {})
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def test_grey_tiffs_whose_white_is_0_are_no_negatives(tmp_path: Path) -> None:
    grey = SCENE[..., 0].copy()
    wide = grey.astype(np.uint16) * 257
    for codes, photometric in ((grey, 1), (255 - grey, 0), (wide, 1)):
        frame = shown(written(tmp_path / "a.tif", grey_tiff(codes, photometric)))[0]
        assert np.array_equal(frame[..., 0], grey)
    assert "white is 0" in refused(written(tmp_path / "a.tif", grey_tiff(65535 - wide, 0)))


@pytest.mark.parametrize("place", [5, 1000, 99_999_999])
def test_a_tiff_with_damaged_exif_is_used(tmp_path: Path, place: int) -> None:
    grey = SCENE[..., 0].copy()
    path = written(tmp_path / "a.tif", grey_tiff(grey, 1, {34665: place, 34853: place}))
    assert np.array_equal(shown(path)[0, ..., 0], grey)


def test_an_animation_of_one_frame_is_turned_as_a_still_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = files.chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    one = files.apng((64, 96), [part(0, 0, (64, 96), 1)])
    at = one.index(b"acTL") - 4
    path = written(tmp_path / "a.png", one[:at] + turned + one[at:])
    row = probe(str(path))
    assert (row.kind, row.width, row.height) == ("image", 96, 64)
    assert shown(path)[0].shape == (64, 96, 3)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_a_png_is_white(tmp_path: Path, depth: type, channels: int) -> None:
    scale = 257 if depth is np.uint16 else 1
    pixels = (SCENE if channels == 3 else SCENE[..., 0]).astype(depth) * depth(scale)
    transparent = pixels[8, 8].reshape(-1).astype(">u2").tobytes()
    path = written(tmp_path / "a.png", files.png(pixels, files.chunk(b"tRNS", transparent)))
    frame = shown(path)[0]
    assert (frame[8, 8] == 255).all()
    assert np.array_equal(frame[80, 64, 0], SCENE[80, 64, 0])


def test_the_primary_picture_of_a_heic_is_shown(tmp_path: Path) -> None:
    several = pillow_heif.HeifFile()
    for picture in (SCENE[::-1], SCENE):
        several.add_from_pillow(Image.fromarray(np.ascontiguousarray(picture)))
    several.save(tmp_path / "a.heic", primary_index=1, quality=95, chroma=444)
    assert probe(str(tmp_path / "a.heic")).kind == "image"
    assert np.abs(shown(tmp_path / "a.heic")[0].astype(int) - SCENE).mean() < 1


@pytest.mark.parametrize("make", [files.gif, files.apng])
def test_a_canvas_that_no_memory_holds_is_refused(tmp_path: Path, make: Any) -> None:
    for side in (10_000, 65_535):
        path = written(tmp_path / "a", make((side, side), [part(0, 0, (8, 8), 0)] * 2))
        assert "pixels" in refused(path)


@pytest.mark.parametrize("cut", [20, 200, 0.5, 0.9])
def test_a_heic_cut_short_is_refused(tmp_path: Path, cut: float) -> None:
    data = files.heic(files.scene(256, 192), tile_size=64)
    path = written(tmp_path / "a.heic", data[: int(cut if cut > 1 else len(data) * cut)])
    row = scan(Item(str(path), "a.heic", "1", 1), ClipsSettings())
    assert row["status"] == "dropped"
    assert row["detail"]


def test_a_still_picture_that_times_out_once_is_one_frame_at_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a.png", files.png(SCENE))
    monkeypatch.setattr(scanning, "stretch", late_once)
    started = time.monotonic()
    row = scan(Item(str(path), "a.png", "1", 1), ClipsSettings(decode_timeout_s=3))
    assert time.monotonic() - started > 3
    assert (row["status"], row["again"], len(row["brightness"])) == ("ok", False, 1)
    assert np.isfinite(row["brightness"]).all()
