"""Pictures, still and moving, against independent readers.

`PYTHONPATH=tests python tests/media/test_against_others.py` prints the table of what matched.

References: Pillow with ImageCms for stills and their profiles; PyAV for the tiles of HEIC, for animated AVIF
and for the film of the same HDR samples; what the specifications say, in numpy, for parts of animations, for
PNG's gamma, and for HEIC that is turned, mirrored and cropped.
"""

import io
import itertools
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from media import picture_files as files
from media.made import read_clip
from media.picture_files import Part, part, written
from vitascope.media.probe import probe

SCENE = files.scene()
RGBA = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
RGBA[30:60, 40:90, 3] = np.linspace(0, 255, 50).astype(np.uint8)


class Case(NamedTuple):
    """A file, the frames that others see, and by how many levels ours may differ, at most and in the mean."""

    make: Callable[[Path], Path]
    others: Callable[[Path], Sequence[np.ndarray]]
    most: int = 0
    mean: float = 0.0


def saved(form: str, picture: np.ndarray = SCENE, mode: str = "", **how: Any) -> Callable[[Path], Path]:
    if "orientation" in how:
        how["exif"] = _exif(how.pop("orientation"))

    def make(path: Path) -> Path:
        image = Image.fromarray(picture)
        (image.convert(mode) if mode else image).save(path, form, **how)
        return path

    return make


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def content(data: bytes) -> Callable[[Path], Path]:
    return lambda path: written(path, data)


def by_pillow(path: Path) -> list[np.ndarray]:
    """Its one frame, by its profile if it has one, upright, over white."""
    with Image.open(path) as opened:
        profile, image = opened.info.get("icc_profile"), ImageOps.exif_transpose(opened)
        if profile:
            of = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            base = image.convert("RGB") if image.mode == "P" else image
            rgb = ImageCms.profileToProfile(base, of, ImageCms.createProfile("sRGB"), outputMode="RGB")
            return [files.over_white(rgb)]
        return [files.over_white(image)]


def by_pyav(path: Path) -> list[np.ndarray]:
    """The frames of its longest stream: of an animated AVIF the track, and not the still item."""
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda s: s.frames)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def by_tiles(columns: int, size: tuple[int, int]) -> Callable[[Path], list[np.ndarray]]:
    """The tiles, that PyAV has as streams, put together and cut to the size (width, height)."""

    def join(path: Path) -> list[np.ndarray]:
        with av.open(str(path)) as container:
            tiles = {}
            for packet in container.demux(container.streams.video):
                for frame in packet.decode():
                    tiles[packet.stream.index] = frame.to_ndarray(format="rgb24")
        ordered = [tiles[i] for i in sorted(tiles)]
        rows = [np.hstack(ordered[i : i + columns]) for i in range(0, len(ordered), columns)]
        return [np.vstack(rows)[: size[1], : size[0]]]

    return join


def shows(*pictures: np.ndarray) -> Callable[[Path], Sequence[np.ndarray]]:
    return lambda _: pictures


def film_of(transfer: int, codes: np.ndarray) -> Callable[[Path], list[np.ndarray]]:
    """What the same samples are as a video, by its own path through the readers."""

    def frames(path: Path) -> list[np.ndarray]:
        film = files.hdr_file(path.with_suffix(".mp4"), codes, transfer, n_frames=4)
        return [read_clip(str(film), decoder="pyav")[0]]

    return frames


def linear_png(picture: np.ndarray) -> np.ndarray:
    """sRGB's codes as codes of linear light."""
    code = picture / 255.0
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return (255 * light + 0.5).astype(np.uint8)


def animation(form: str, parts: list[Part], size: tuple[int, int] = (64, 64), hidden: Any = None) -> Case:
    if form == "gif":
        return Case(content(files.gif(size, parts)), shows(*files.composed(size, parts)))
    made = files.apng(size, parts, hidden)
    return Case(content(made), shows(*files.composed(size, parts)), most=2, mean=1)


def animations() -> dict[str, Case]:
    whole, corner, middle = (0, 0, (64, 64)), (4, 4, (20, 20)), (30, 26, (24, 30))
    made = {}
    for disposal in ("none", "clear", "restore"):
        for hole in (False, True):
            parts = [
                part(*whole, 0, hole=hole, disposal=disposal),
                part(*corner, 1, hole=hole, disposal=disposal),
                part(*middle, 2, disposal=disposal),
                part(*corner, 3 if not hole else 0, disposal="none"),
            ]
            name = f"{disposal}{'-holes' if hole else ''}"
            made[f"gif-{name}.gif"] = animation("gif", parts)
    for disposal in ("none", "clear", "restore"):
        for over in (False, True):
            parts = [
                part(*whole, 0, alpha=128),
                part(*corner, 1, alpha=99, disposal=disposal, over=over),
                part(*middle, 2, alpha=200, disposal=disposal, over=over),
                part(*corner, 3, alpha=50, over=over),
            ]
            made[f"apng-{disposal}{'-over' if over else ''}.png"] = animation("apng", parts)
    small = [part(*corner, 0), part(*middle, 1)]
    made["gif-first-small.gif"] = animation("gif", small)
    made["gif-sticks-out.gif"] = animation("gif", [part(*whole, 0), part(50, 50, (30, 30), 1)])
    hidden = np.full((64, 64, 4), (255, 0, 255, 255), np.uint8)
    made["apng-hidden.png"] = animation("apng", small, hidden=hidden)
    return made


def stills() -> dict[str, Case]:
    made: dict[str, Case] = {}
    for form, suffix in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("TIFF", "tif"),
        ("BMP", "bmp"),
        ("JPEG2000", "jp2"),
    ):
        made[f"plain.{suffix}"] = Case(saved(form), by_pillow)
    for form, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        for orientation in (2, 3, 5, 6, 8):
            made[f"turned-{orientation}.{suffix}"] = Case(saved(form, orientation=orientation), by_pillow)
    for form, suffix in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("JPEG2000", "jp2")):
        how = {"lossless": True} if form == "WEBP" else {}
        made[f"alpha.{suffix}"] = Case(saved(form, RGBA, **how), by_pillow, most=1)
    made["alpha.avif"] = Case(saved("AVIF", RGBA, quality=95), by_pillow, most=1)
    for mode in ("L", "LA", "P", "1", "CMYK", "YCbCr"):
        made[f"mode-{mode}.tif"] = Case(saved("TIFF", mode=mode), by_pillow)
    for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        made[f"{how}.tif"] = Case(saved("TIFF", compression=how), by_pillow)
    made["cmyk.jpg"] = Case(saved("JPEG", mode="CMYK"), by_pillow)
    made["tiled.jp2"] = Case(saved("JPEG2000", tile_size=(64, 64)), by_pillow)
    grey16 = SCENE[..., 0].astype(np.uint16) * 257
    made["grey16.png"] = Case(content(files.png(grey16)), shows(SCENE[..., :1].repeat(3, 2)))
    made["rgb16.png"] = Case(content(files.png(SCENE.astype(np.uint16) * 257)), shows(SCENE))
    made["rgb16.tif"] = Case(lambda p: _by_cv2(p, SCENE.astype(np.uint16) * 257), shows(SCENE))
    made["rgb16.jp2"] = Case(lambda p: _by_cv2(p, SCENE.astype(np.uint16) * 257), shows(SCENE), most=1)
    return made


def _by_cv2(path: Path, picture: np.ndarray) -> Path:
    cv2.imwrite(str(path), picture[..., ::-1])
    return path


def profiled() -> dict[str, Case]:
    made: dict[str, Case] = {}
    spaces = {
        "adobe": files.icc(files.ADOBE_XY, 2.19921875),
        "p3": files.icc(files.P3_XY),
        "prophoto": files.icc(files.PROPHOTO_XY, 1.8, files.D50),
    }
    for name, profile in spaces.items():
        for form, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
            made[f"{name}.{suffix}"] = Case(saved(form, icc_profile=profile), by_pillow)
    made["p3.avif"] = Case(saved("AVIF", icc_profile=spaces["p3"], quality=95), by_pillow)
    made["adobe-turned.jpg"] = Case(saved("JPEG", icc_profile=spaces["adobe"], orientation=6), by_pillow)
    made["p3-palette.png"] = Case(saved("PNG", mode="P", icc_profile=spaces["p3"]), by_pillow)
    made["grey.png"] = Case(saved("PNG", mode="L", icc_profile=files.icc_grey(1.0)), by_pillow)
    made["cmyk-profile.jpg"] = Case(saved("JPEG", mode="CMYK", icc_profile=files.icc_cmyk()), by_pillow)
    made["cmyk-profile.tif"] = Case(saved("TIFF", mode="CMYK", icc_profile=files.icc_cmyk()), by_pillow)
    made["srgb-profile.png"] = Case(saved("PNG", icc_profile=files.icc(files.SRGB_XY)), shows(SCENE))
    made["linear-gamma.png"] = Case(
        content(files.png(linear_png(SCENE), files.gama(1.0))), shows(SCENE), most=3
    )
    adobe = (files.chrm(files.ADOBE_XY), files.gama(1 / 2.19921875))
    as_icc = files.png(SCENE, files.chunk(b"iCCP", b"a\0\0" + zlib.compress(spaces["adobe"])))
    made["adobe-chrm.png"] = Case(content(files.png(SCENE, *adobe)), _of(as_icc), most=4, mean=0.7)
    p3_icc = files.png(SCENE, files.chunk(b"iCCP", b"a\0\0" + zlib.compress(spaces["p3"])))
    made["p3-cicp.png"] = Case(content(files.png(SCENE, files.cicp(12, 13))), _of(p3_icc), most=1)
    return made


def _of(data: bytes) -> Callable[[Path], list[np.ndarray]]:
    """As Pillow and ImageCms show another file."""

    def frames(path: Path) -> list[np.ndarray]:
        return by_pillow(written(path.with_name(f"other-{path.name}"), data))

    return frames


def heics() -> dict[str, Case]:
    big, cut, odd = files.scene(256, 192), files.scene(250, 180), files.scene(101, 77)
    made = {
        "grid.heic": Case(content(files.heic(big, tile_size=64)), by_tiles(4, (256, 192)), 6, 1),
        "grid-cut.heic": Case(content(files.heic(cut, tile_size=64)), by_tiles(4, (250, 180)), 6, 1),
        "odd.heic": Case(content(files.heic(odd)), shows(odd), 12, 1),
        "alpha.heic": Case(content(files.heic(RGBA)), shows(files.over_white(Image.fromarray(RGBA))), 12, 1),
    }
    p3 = files.icc(files.P3_XY)
    as_png = files.png(SCENE, files.chunk(b"iCCP", b"a\0\0" + zlib.compress(p3)))
    made["p3.heic"] = Case(content(files.heic(SCENE, icc_profile=p3)), _of(as_png), 12, 1)
    for orientation in range(2, 9):
        turned = shows(np.asarray(_turned(SCENE, orientation)))
        made[f"turned-{orientation}.heic"] = Case(
            content(files.heic(SCENE, orientation=orientation)), turned, 12, 1
        )
    return made


def by_hand(picture: np.ndarray, tile: tuple[int, int], *steps: files.Step) -> Case:
    wanted = picture
    for step in steps:
        wanted = step.apply(wanted)
    return Case(lambda path: written(path, files.heic_by_hand(picture, tile, steps)), shows(wanted), 3, 1)


def transformed_heics() -> dict[str, Case]:
    """Grids and single items, turned, mirrored and cropped by their own properties."""
    size, grid_size, tile = (128, 96), (250, 180), (64, 64)
    grid = files.scene(*grid_size)
    crop, one_crop = files.crop(7, 12, (100, 150), grid_size), files.crop(28, 0, (100, 90), size)
    turn, mirror = files.turn, files.mirror
    made = {
        "one.heic": by_hand(SCENE, size),
        "grid.heic": by_hand(grid, tile),
        "one-crop.heic": by_hand(SCENE, size, one_crop),
        "one-crop-turn-mirror.heic": by_hand(SCENE, size, one_crop, turn(1), mirror(0)),
        "grid-crop.heic": by_hand(grid, tile, crop),
        "grid-crop-turn-mirror.heic": by_hand(grid, tile, crop, turn(3), mirror(1)),
        "grid-mirror-turn.heic": by_hand(grid, tile, mirror(1), turn(1)),
    }
    for quarters, axis in itertools.product((1, 2, 3), (0, 1)):
        steps = (turn(quarters), mirror(axis))
        made[f"grid-turn-{quarters}-mirror-{axis}.heic"] = by_hand(grid, tile, *steps)
    return {f"by-hand-{name}": case for name, case in made.items()}


def _turned(picture: np.ndarray, orientation: int) -> Image.Image:
    image = Image.fromarray(picture)
    exif = image.getexif()
    exif[0x0112] = orientation
    return ImageOps.exif_transpose(image)


def hdrs() -> dict[str, Case]:
    """Stills of PQ (16) and HLG (18) are the film of the same samples."""
    made: dict[str, Case] = {}
    for name, transfer, white in (("pq", 16, 0.58), ("pq-bright", 16, 0.75), ("hlg", 18, 0.75)):
        codes = files.hdr_codes(white)
        film = film_of(transfer, codes)
        made[f"{name}.avif"] = Case(lambda p, c=codes, t=transfer: files.hdr_file(p, c, t), film, 10, 1)
        made[f"{name}.heic"] = Case(lambda p, c=codes, t=transfer: files.hdr_heic(p, c, t), film, 10, 1)
        made[f"{name}.png"] = Case(content(files.png(codes, files.cicp(9, transfer))), film, 10, 1)
    return made


def sequences() -> dict[str, Case]:
    frames = files.moving(8)

    def several(form: str, **how: Any) -> Callable[[Path], Path]:
        first, *others = map(Image.fromarray, frames)

        def make(path: Path) -> Path:
            first.save(path, form, save_all=True, append_images=others, duration=125, **how)
            return path

        return make

    return {
        "moving.avif": Case(several("AVIF", quality=95, subsampling="4:4:4"), by_pyav, 3, 1),
        "moving.webp": Case(several("WEBP", lossless=True), shows(*frames)),
        "moving.png": Case(several("PNG"), shows(*frames)),
        "moving-turned.webp": Case(several("WEBP", lossless=True, exif=_exif(6)), shows(*frames)),
        "moving-turned.png": Case(several("PNG", exif=_exif(6)), shows(*frames)),
    }


CASES = stills() | profiled() | heics() | transformed_heics() | hdrs() | animations() | sequences()


def ours(path: Path) -> np.ndarray:
    """All frames of a file (F H W 3)."""
    row = probe(str(path))
    how = {"decoder": row.decoder}
    frames = read_clip(str(path), n_frames=row.n_frames, fps=row.fps or 1.0, **how)
    assert (row.kind == "image") == (row.n_frames == 1)
    assert frames.shape[1:3] == (row.height, row.width)
    return frames


def differences(name: str, folder: Path) -> tuple[int, float, int]:
    """The largest and the mean difference in levels, and the number of frames."""
    case = CASES[name]
    got = ours(case.make(folder / name))
    wanted = np.stack(list(case.others(folder / name)))
    assert got.shape == wanted.shape
    apart = np.abs(got.astype(int) - wanted)
    return int(apart.max()), float(apart.mean()), len(got)


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_what_others_see(tmp_path: Path, name: str) -> None:
    most, mean, _ = differences(name, tmp_path)
    assert most <= CASES[name].most
    assert mean <= (CASES[name].mean or CASES[name].most)


def table() -> str:
    """What matched, a line a file."""
    lines = [f"{'file':24} frames  most  mean  allowed"]
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            try:
                most, mean, n_frames = differences(name, Path(folder))
            except Exception as error:
                lines.append(f"{name:24} {type(error).__name__}: {error}")
                continue
            verdict = "same" if most == 0 else "ok" if most <= case.most else "DIFFERS"
            lines.append(f"{name:24} {n_frames:6} {most:5} {mean:5.2f}  {case.most:3} {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
