"""Colours of pictures, brought to sRGB or left as they are."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from media import picture_files as files
from media.made import read_clip
from media.picture_files import written
from vitascope.clips.analysis.scan import scan
from vitascope.clips.index.catalog import Item
from vitascope.clips.settings import ClipsSettings
from vitascope.media.probe import probe

GREEN = (40, 180, 40)
ADOBE = files.icc(files.ADOBE_XY, 2.19921875)
FLAT = np.full((64, 64, 3), GREEN, np.uint8)


def colour(path: Path) -> tuple[int, ...]:
    return tuple(read_clip(str(path), decoder="pillow")[0, 32, 32].tolist())


def saved(path: Path, mode: str = "RGB", **how: object) -> Path:
    Image.fromarray(FLAT).convert(mode).save(path, **how)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_adobe_rgb_is_brought_to_srgb(tmp_path: Path, suffix: str) -> None:
    how = {"lossless": True} if suffix == "webp" else {}
    assert colour(saved(tmp_path / f"a.{suffix}", icc_profile=ADOBE, **how)) == (0, 181, 0)


def test_without_a_profile_or_with_srgbs_nothing_changes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    srgb = files.icc(files.SRGB_XY)
    usual = (files.gama(0.45455), files.chrm(files.SRGB_XY))
    for i, data in enumerate(
        (files.png(noise), files.png(noise, *usual), files.png(noise, files.cicp(1, 13)))
    ):
        got = read_clip(str(written(tmp_path / f"{i}.png", data)), decoder="pillow")[0]
        assert np.array_equal(got, noise)
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(read_clip(str(tmp_path / "a.png"), decoder="pillow")[0], noise)


def test_what_comes_first_counts(tmp_path: Path) -> None:
    """cICP, then iCCP, then sRGB, then gAMA and cHRM (PNG, third edition, 4.3)."""
    wide = (files.chrm(files.ADOBE_XY), files.gama(1 / 2.19921875))
    path = written(tmp_path / "a.png", files.png(FLAT, files.chunk(b"sRGB", b"\0"), *wide))
    assert colour(path) == GREEN
    assert colour(written(path, files.png(FLAT, files.cicp(1, 13), *wide))) == GREEN
    assert colour(written(path, files.png(FLAT, *wide))) == (0, 181, 0)


def test_transparency_stays_over_white_under_a_profile(tmp_path: Path) -> None:
    rgba = np.dstack([FLAT, np.full((64, 64), 255, np.uint8)])
    rgba[:, :32, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png", icc_profile=ADOBE)
    frame = read_clip(str(tmp_path / "a.png"), decoder="pillow")[0]
    assert (frame[:, :32] == 255).all()
    assert tuple(frame[0, 40].tolist()) == (0, 181, 0)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (b"no profile", "damaged"),
        (ADOBE[:200], "damaged"),
        (files.icc_cmyk(), "it is of CMYK, the picture RGB"),
        (files.icc_grey(2.2), "it is of L, the picture RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_passed_over_with_a_word(
    tmp_path: Path, profile: bytes, said: str
) -> None:
    path = saved(tmp_path / "a.png", icc_profile=profile)
    assert colour(path) == GREEN
    row = scan(Item(str(path), "a.png", "1", 1), ClipsSettings())
    assert row["status"] == "ok"
    assert said in row["detail"]


def test_grey_with_a_profile_of_colours_is_brought_to_srgb(tmp_path: Path) -> None:
    linear = files.icc(files.SRGB_XY, 1.0)
    Image.new("L", (64, 64), 55).save(tmp_path / "a.png", icc_profile=linear)
    assert colour(tmp_path / "a.png") == pytest.approx((128,) * 3, abs=1)


def animated(path: Path, pictures: list[Image.Image], profile: bytes) -> Path:
    how = {"lossless": True} if path.suffix == ".webp" else {}
    later = {"save_all": True, "append_images": pictures[1:], "duration": 1000}
    pictures[0].save(path, icc_profile=profile, **later, **how)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("profile", [files.icc_grey(1.0), ADOBE], ids=["grey", "colours"])
def test_frames_are_converted_as_stills_are(tmp_path: Path, mode: str, profile: bytes) -> None:
    ramp = np.arange(0, 256, 4, dtype=np.uint8)[None].repeat(64, 0)
    wide = mode == "I;16"
    codes = ramp.astype(np.uint16) * 257 if wide else ramp
    pictures = [Image.fromarray(code) for code in (codes, codes[:, ::-1])]
    pictures = [picture if wide else picture.convert(mode) for picture in pictures]
    moving = animated(tmp_path / "a.png", pictures, profile)
    assert probe(str(moving)).n_frames == 2
    frames = read_clip(str(moving), decoder="pillow", fps=1, n_frames=2)
    for frame, picture in zip(frames, pictures, strict=True):
        picture.save(tmp_path / "still.png", icc_profile=profile)
        assert np.array_equal(frame, read_clip(str(tmp_path / "still.png"), decoder="pillow")[0])
    if (mode, profile) == ("L", files.icc_grey(1.0)):
        assert frames[0, 0, :, 0].tolist() == by_little_cms(ramp, profile)[0].tolist()


def by_little_cms(grey: np.ndarray, profile: bytes) -> np.ndarray:
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(Image.fromarray(grey), source, srgb, outputMode="RGB")
    return np.asarray(converted)[..., 0]


def test_a_jpeg2000_has_its_profile_too(tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.fromarray(FLAT).save(sink, "JPEG2000")
    jp2 = sink.getvalue()
    at = jp2.index(b"colr") - 4
    size = int.from_bytes(jp2[at : at + 4], "big")
    box = struct.pack(">I4sBBB", 11 + len(ADOBE), b"colr", 2, 0, 0) + ADOBE
    header = jp2.index(b"jp2h") - 4
    longer = int.from_bytes(jp2[header : header + 4], "big") - size + len(box)
    data = jp2[:header] + struct.pack(">I", longer) + jp2[header + 4 : at] + box + jp2[at + size :]
    assert colour(written(tmp_path / "a.jp2", data)) == (0, 181, 0)


@pytest.mark.parametrize("white", [(0.3127, 0.0), (0.0, 0.0), (9.9, 9.9)])
def test_chromaticities_of_nonsense_are_passed_over(tmp_path: Path, white: tuple[float, float]) -> None:
    for xy in (files.ADOBE_XY, (0.3, 0.3) * 3):
        bad = files.chrm(xy, white)
        assert colour(written(tmp_path / "a.png", files.png(FLAT, bad))) == GREEN


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_picture_with_an_hdr_profile_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    """Of ICC's version 4.4, with the tag `cicp`."""
    codes = files.hdr_codes()
    tagged = files.icc(files.P3_XY, cicp=(9, transfer))
    eight = (codes >> 8).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.png", icc_profile=tagged)
    written(tmp_path / "b.png", files.png(eight, files.cicp(9, transfer)))
    a, b = (read_clip(str(tmp_path / name), decoder="pillow")[0] for name in ("a.png", "b.png"))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, eight)


def test_hdr_keeps_the_bits_of_its_file(tmp_path: Path) -> None:
    """Of 8 bits of PQ, a shallow ramp would keep a few steps."""
    ramp = np.linspace(0.30, 0.32, 256)[None].repeat(64, 0)[..., None].repeat(3, 2)
    codes = (ramp * 65535).astype(np.uint16)
    deep = read_clip(str(written(tmp_path / "a.png", files.png(codes, files.cicp(9, 16)))), decoder="pillow")
    assert len(np.unique(deep[0, 0, :, 0])) >= 5
    assert np.abs(np.diff(deep[0, 0, :, 0].astype(int))).max() == 1
    assert probe(str(tmp_path / "a.png")).kind == "image"
