"""Frames above encode.tile_pixels: overlapping tiles without seams, in memory that their size bounds."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from encode.test_autoencoder import LAYOUTS, STRIDES, most_bytes, noise
from media.made import read_clip
from vitascope.config import SettingsError, load
from vitascope.encode.codecs import Codec, make_codec, psnr_db
from vitascope.encode.codecs.tiles import Span, decode_tiles, encode_tiles, tiles
from vitascope.encode.settings import EncodeSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each layout."""
    places = {name: tmp_path_factory.mktemp("wan") for name in LAYOUTS}
    torch.manual_seed(0)
    for name, own in LAYOUTS.items():
        diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1, **own).save_pretrained(places[name])
    return places


def codec_of(folder: Path, **other: Any) -> Codec:
    return make_codec(EncodeSettings(codec="diffusers", codec_folder=str(folder), **other))


def decoded(codec: Codec, latents: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(codec.decode(latents)))


@pytest.mark.parametrize("size", list(itertools.product((1, 7, 30, 45, 135), (1, 8, 53, 240))))
@pytest.mark.parametrize("most", [16, 100, 3600])
def test_tiles_cover_a_frame_once_with_smooth_weights(size: tuple[int, int], most: int) -> None:
    grid = tiles(*size, most)
    total = torch.zeros(1, *size, 1)
    for tile in grid:
        part = tile.of(total)
        assert part.shape[1] * part.shape[2] <= most
        assert part.shape == grid[0].of(total).shape
        part += tile.weights()
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (len(grid) == 1) == (size[0] * size[1] <= most)
    if len(grid) > 1 and most >= 100 and min(size) >= 30:
        assert len(grid) < 2.5 * size[0] * size[1] / most + 4
        overlaps = [span.after for tile in grid for span in tile if span.after]
        sides = [span.stop - span.start for tile in grid for span in tile if span.after]
        assert all(o >= side / 4 - 1 for o, side in zip(overlaps, sides, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_that_fit_are_coded_as_without_tiles(layout: str, folders: dict[str, Path]) -> None:
    whole, tiled = codec_of(folders[layout]), codec_of(folders[layout], tile_pixels=64 * 96)
    frames = noise(5, 64, 96)
    latents = whole.encode(frames)
    assert torch.equal(tiled.encode(frames), latents)
    assert torch.equal(decoded(tiled, latents), decoded(whole, latents))


def test_tiling_is_in_the_fingerprint_if_a_frame_can_be_larger(folders: dict[str, Path]) -> None:
    def of(**other: Any) -> str:
        return codec_of(folders["2.1"], **other).fingerprint

    whole = of()
    assert of(tile_pixels=720 * 1280) == whole
    assert len({whole, of(tile_pixels=100_000), of(tile_pixels=200_000)}) == 3
    assert of(tile_pixels=100_000, max_pixels=100_000) == whole
    assert of(tile_pixels=100_000, buckets=((1, 256, 256),)) == whole
    assert of(tile_pixels=60_000, buckets=((1, 256, 256),)) == of(tile_pixels=60_000)


def smooth() -> torch.Tensor:
    """A picture without edges, uint8 (1, 192, 256, 3)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 192), torch.linspace(0, 1, 256), indexing="ij")
    waves = [torch.sin(3 * x + y), torch.cos(2 * y - x), x * y]
    return ((torch.stack(waves, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)[None]


def real() -> torch.Tensor:
    from encode.conftest import Media

    return torch.from_numpy(read_clip(Media.china, size=(192, 256), decoder="pillow"))


@pytest.mark.parametrize("picture", [smooth, real])
def test_tiles_cost_a_codec_little_psnr_and_make_no_step(picture: Callable[[], torch.Tensor]) -> None:
    """With `dct`, which is accurate, and whose transform laps over 8 px, so that borders of tiles matter."""
    codec, frames = make_codec(EncodeSettings()), picture().expand(5, -1, -1, -1)
    grid = tiles(24, 32, 160)
    assert len(grid) > 4
    latents = encode_tiles(frames, grid, 8, codec.encode)
    assert latents.shape == (2, 24, 32, codec.channels)
    here, there = list(decode_tiles(latents, grid, 8, codec.decode)), decoded(codec, codec.encode(frames))
    assert [len(group) for group in here] == [1, 4]
    assert psnr_db(frames, here) > psnr_db(frames, [there]) - 0.2
    borders = sorted({8 * x for tile in grid for x in tile.columns[:2]} - {0, 256})
    inside = [x for x in range(8, 256, 8) if x not in borders]
    tiled, whole = (step_at(video, borders) / step_at(video, inside) for video in (torch.cat(here), there))
    assert tiled <= whole


def step_at(video: torch.Tensor, columns: list[int]) -> float:
    """The mean difference between each of these columns and the one before it."""
    values = video.float()
    return float(np.mean([(values[:, :, x] - values[:, :, x - 1]).abs().mean().item() for x in columns]))


@pytest.mark.parametrize("picture", [smooth, real])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles_leave_no_seams_and_cost_little_psnr(
    layout: str,
    picture: Callable[[], torch.Tensor],
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What tiles change does not step at their borders more than elsewhere; without blending it does."""
    frames, space = picture(), STRIDES[layout].space
    whole, tiled = codec_of(folders[layout]), codec_of(folders[layout], tile_pixels=128 * 128)
    grid = [tile.times(space) for tile in tiles(192 // space, 256 // space, (128 // space) ** 2)]
    borders = sorted({x for tile in grid for x in tile.columns[:2]} - {0, 256})
    inside = sorted(set(range(1, 256)) - set(borders))
    there, here = (decoded(codec, codec.encode(frames)) for codec in (whole, tiled))
    assert psnr_db(frames, [here]) > psnr_db(frames, [there]) - 0.25
    assert psnr_db(there, [here]) > 25
    change = here.float() - there.float()
    blending = Span.weights
    monkeypatch.setattr(Span, "weights", lambda span: (blending(span) > 0.5).float())
    cut = decoded(tiled, tiled.encode(frames)).float() - there.float()
    seam, of_cut = (step_at(each, borders) / step_at(each, inside) for each in (change, cut))
    assert seam < 1.3
    assert layout == "2.2" or seam < of_cut - 0.3  # random weights of 2.2 step at every latent pixel


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_that_of_a_tile(layout: str, folders: dict[str, Path]) -> None:
    """16 times the area: without tiles, 16 times the memory; with tiles, that of one and the pixels."""
    whole, tiled = codec_of(folders[layout]), codec_of(folders[layout], tile_pixels=64 * 64)
    small, large = noise(5, 64, 64), noise(5, 256, 256)

    def most(codec: Codec, frames: torch.Tensor, work: str) -> int:
        given = frames if work == "encode" else whole.encode(frames)
        return most_bytes(lambda x: [0 for _ in getattr(codec, work)(x)], given)

    for codec in (whole, tiled):
        codec.encode(small)  # loads the weights
    for work in ("encode", "decode"):
        of_a_tile = most(whole, small, work)
        assert most(tiled, large, work) < of_a_tile + 4 * large.nbytes
        assert most(whole, large, work) > 10 * of_a_tile


def test_tiles_belong_to_a_pretrained_codec() -> None:
    with pytest.raises(
        SettingsError, match=r"encode\.tile_pixels: codec dct codes frames of any size at once"
    ):
        load(None, ["encode.tile_pixels=65536"])
