"""Buckets: near native size, any aspect, never upscaled."""

import itertools

import numpy as np
import pytest

from vitascope.config import SettingsError, load
from vitascope.encode.buckets import Limits, Patching, check_table, choose, cropped_share, kept, sizes_of
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import STRIDES, EncodeSettings, Strides
from vitascope.encode.strides import strides_of
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize

STRIDE = 16
PATCHING = Patching(STRIDES["dct"], patch=2)


def best(*clip: int, settings: EncodeSettings, stride_px: int) -> VideoSize:
    width, height, n_frames = clip
    (size,) = choose(width, height, n_frames, settings, stride_px=stride_px)
    return size


def many_sizes() -> list[tuple[int, int]]:
    draw = np.random.default_rng(0)
    sides = np.exp(draw.uniform(np.log(64), np.log(4000), (2000, 2))).astype(int)
    return [(int(w), int(h)) for w, h in sides if max(w, h) < 4 * min(w, h)]


@pytest.mark.parametrize("max_pixels", [96 * 160, 256 * 256, 720 * 1280])
def test_every_bucket_keeps_to_the_rules(max_pixels: int) -> None:
    settings = EncodeSettings(max_pixels=max_pixels)
    for width, height in many_sizes():
        size = best(width, height, 20, settings=settings, stride_px=STRIDE)
        assert size.height * size.width <= max_pixels
        assert size.height <= height
        assert size.width <= width
        assert size.height % STRIDE == size.width % STRIDE == 0
        assert size.n_frames == 17
        # Rounding each side down loses under a stride of it; that bounds the crop.
        assert cropped_share(width, height, size.height, size.width) <= STRIDE / min(size.height, size.width)
        if width >= 2 * height:
            assert size.width > size.height
        if height >= 2 * width:
            assert size.height > size.width


def test_large_frames_stay_near_the_largest_area() -> None:
    settings = EncodeSettings(max_pixels=256 * 256)
    areas = [best(w, h, 1, settings=settings, stride_px=STRIDE) for w, h in many_sizes() if w * h > 256 * 256]
    assert np.median([s.height * s.width for s in areas]) > 0.85 * 256 * 256


def test_native_sizes_are_kept() -> None:
    assert best(1280, 720, 1, settings=EncodeSettings(), stride_px=16) == VideoSize(1, 720, 1280)
    assert best(720, 1280, 9, settings=EncodeSettings(), stride_px=16) == VideoSize(9, 1280, 720)
    assert best(176, 144, 8, settings=EncodeSettings(), stride_px=16) == VideoSize(1, 144, 176)
    assert best(640, 427, 1, settings=EncodeSettings(), stride_px=16) == VideoSize(1, 416, 640)


def test_sizes_differ_and_are_no_single_square() -> None:
    settings = EncodeSettings(max_pixels=256 * 256)
    shapes = {best(w, h, 1, settings=settings, stride_px=STRIDE) for w, h in many_sizes()}
    assert len(shapes) > 20
    assert sum(s.height == s.width for s in shapes) < len(shapes) / 4


@pytest.mark.parametrize(("frames", "bucket"), [(1, 1), (8, 1), (9, 9), (40, 33), (1000, 129)])
def test_the_longest_duration_that_the_clip_fills(frames: int, bucket: int) -> None:
    assert best(64, 64, frames, settings=EncodeSettings(), stride_px=16).n_frames == bucket


def test_what_fits_no_bucket_is_rejected_with_its_reason() -> None:
    with pytest.raises(Rejected) as too_small:
        best(200, 15, 9, settings=EncodeSettings(), stride_px=16)
    assert too_small.value.reason == Reason.TOO_SMALL
    with pytest.raises(Rejected, match="frame_counts") as too_short:
        best(200, 200, 8, settings=EncodeSettings(frame_counts=(9, 17)), stride_px=16)
    assert too_short.value.reason == Reason.NO_BUCKET
    with pytest.raises(Rejected, match="max_pixels") as too_narrow:
        best(5000, 20, 9, settings=EncodeSettings(max_pixels=1024), stride_px=16)
    assert too_narrow.value.reason == Reason.NO_BUCKET


@pytest.mark.parametrize("counts", ["[8]", "[9, 1]", "[1, 1]", "[-3]"])
def test_wrong_frame_counts_are_refused_by_the_settings(counts: str) -> None:
    with pytest.raises(SettingsError, match="frame_counts"):
        load(None, [f"encode.frame_counts={counts}"])


def test_fixed_buckets_take_the_place_of_the_rule() -> None:
    table = EncodeSettings(buckets=((17, 96, 160), (17, 160, 96), (9, 192, 320), (1, 192, 192)))
    wanted = {
        (160, 96, 17): VideoSize(17, 96, 160),  # itself
        (96, 160, 40): VideoSize(17, 160, 96),  # its aspect; the tail is lost
        (1920, 1080, 9): VideoSize(9, 192, 320),  # the largest it fills
        (200, 200, 100): VideoSize(1, 192, 192),  # the only one that crops little
        (168, 96, 17): VideoSize(17, 96, 160),  # a crop of 5 %
        (153, 92, 17): VideoSize(17, 96, 160),  # enlarged by 4.6 %
    }
    for (width, height, n_frames), bucket in wanted.items():
        assert best(width, height, n_frames, settings=table, stride_px=16) == bucket


def test_fixed_buckets_are_chosen_whatever_their_order() -> None:
    table = ((9, 96, 160), (5, 128, 208), (17, 64, 112), (17, 160, 160))
    one, other = EncodeSettings(buckets=table), EncodeSettings(buckets=table[::-1])
    for width, height in many_sizes()[:200]:
        if min(width, height) > 200 and max(width, height) < 1.4 * min(width, height):
            assert best(width, height, 30, settings=one, stride_px=16) == best(
                width, height, 30, settings=other, stride_px=16
            )


@pytest.mark.parametrize(
    ("clip", "why"),
    [
        ((160, 96, 8), "8 frames; every bucket of encode.buckets has more"),
        ((150, 90, 9), "150x90 px; every bucket .* would upscale it"),
        ((96, 400, 9), "96x400 px; .* would upscale it"),
        ((160, 400, 9), "160x400 px; the best .* crops 76% of it, encode.max_crop is 30%"),
    ],
)
def test_what_fits_no_fixed_bucket_is_rejected_with_its_reason(clip: tuple[int, int, int], why: str) -> None:
    with pytest.raises(Rejected, match=why) as rejected:
        best(*clip, settings=EncodeSettings(buckets=((9, 96, 160), (17, 192, 320))), stride_px=16)
    assert rejected.value.reason == Reason.NO_BUCKET


def test_the_largest_crop_is_the_users() -> None:
    table = ((9, 96, 160),)
    with pytest.raises(Rejected, match="crops 65%"):
        best(288, 500, 9, settings=EncodeSettings(buckets=table), stride_px=16)
    assert best(288, 500, 9, settings=EncodeSettings(buckets=table, max_crop=0.7), stride_px=16) == VideoSize(
        *table[0]
    )


def test_several_sizes_of_a_clip_are_the_best_of_the_table() -> None:
    table = ((17, 96, 160), (9, 192, 320), (33, 48, 80), (17, 160, 96))
    three = EncodeSettings(buckets=table, sizes_per_clip=3)
    sizes = choose(1920, 1080, 20, three, stride_px=16)
    assert sizes == [VideoSize(9, 192, 320), VideoSize(17, 96, 160)]  # it fills no third, upright is cropped
    assert choose(1920, 1080, 40, three, stride_px=16)[0] == best(
        1920, 1080, 40, settings=EncodeSettings(buckets=table), stride_px=16
    )


def test_several_sizes_near_native_have_quarters_of_the_area() -> None:
    settings = EncodeSettings(max_pixels=720 * 1280, sizes_per_clip=4)
    for width, height in many_sizes()[:300]:
        sizes = choose(width, height, 20, settings, stride_px=16)
        areas = [size.height * size.width for size in sizes]
        assert all(b <= a / 4 for a, b in itertools.pairwise(areas))
        assert {size.n_frames for size in sizes} == {17}
        assert all(size.height % 16 == size.width % 16 == 0 for size in sizes)
    whole, half = choose(1280, 720, 1, settings, stride_px=16)[:2]
    assert (whole, half) == (VideoSize(1, 720, 1280), VideoSize(1, 352, 640))


def test_a_sum_of_crop_and_scale_is_what_is_kept() -> None:
    keeps = kept(np.array([20, 400, 400]), np.array([[5, 100, 200], [20, 400, 400], [21, 400, 400]]), 0.5)
    assert keeps.scale.tolist() == [0.5, 1, 1]
    assert keeps.view.tolist() == [0.5, 1, 1]
    assert keeps.pixels.tolist() == [0.125, 1, 1]
    assert keeps.seconds.tolist() == [0.25, 1, 1]
    assert keeps.fits.tolist() == [True, True, False]
    assert keeps.worth[1:].tolist() == [1, 0]


@pytest.mark.parametrize(
    "buckets", ["[[8, 96, 96]]", "[[9, 0, 96]]", "[[1, 96, 96], [1, 96, 96]]", "[]", "[[9, 96]]"]
)
def test_wrong_buckets_are_refused_by_the_settings(buckets: str) -> None:
    with pytest.raises(SettingsError, match=r"encode\.buckets"):
        load(None, [f"encode.buckets={buckets}"])


def test_a_bucket_that_cannot_be_trained_on_is_refused() -> None:
    fixed = EncodeSettings(buckets=((9, 96, 160),))
    check_table(fixed, Limits(PATCHING, 180))
    with pytest.raises(ValueError, match="9x96x160 makes 180 tokens, a pack holds 179"):
        check_table(fixed, Limits(PATCHING, 179))
    with pytest.raises(ValueError, match="9x96x168 has a side that is no multiple of 16 px"):
        check_table(EncodeSettings(buckets=((9, 96, 168),)), Limits(PATCHING, 1000))


def test_latent_sizes() -> None:
    size = VideoSize(9, 96, 160)
    assert PATCHING.latent_shape(size) == (3, 12, 20)
    assert PATCHING.n_tokens(size) == 3 * 6 * 10
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        PATCHING.latent_shape(VideoSize(8, 96, 160))
    assert PATCHING.covering(VideoSize(8, 90, 161)) == VideoSize(9, 96, 176)
    assert PATCHING.covering(size) == size


def test_strides_are_the_codecs() -> None:
    """Another codec's sizes, tokens and frame counts follow from its strides alone."""
    other = Patching(Strides(time=8, space=16), patch=1)
    assert other.latent_shape(VideoSize(17, 96, 160)) == (3, 6, 10)
    assert other.n_tokens(VideoSize(17, 96, 160)) == 3 * 6 * 10
    assert other.covering(VideoSize(10, 90, 161)) == VideoSize(17, 96, 176)
    with pytest.raises(ValueError, match="1 \\+ 8k and sides multiples of 16 px"):
        other.latent_shape(VideoSize(5, 96, 160))
    settings = EncodeSettings()
    assert make_codec(settings).strides == strides_of(settings) == STRIDES[settings.codec]


def test_a_size_that_no_pack_holds_is_rejected_and_the_others_stay() -> None:
    clip, settings = VideoSize(9, 272, 640), EncodeSettings(sizes_per_clip=3)
    too_large, *others = sizes_of(clip, settings, Limits(PATCHING, 600))
    assert isinstance(too_large, Rejected)
    assert too_large.reason == Reason.TOO_MANY_TOKENS
    assert others == [(VideoSize(9, 128, 320), 480), (VideoSize(9, 64, 144), 108)]
    (none,) = sizes_of(VideoSize(1, 8, 8), settings, Limits(PATCHING, 600))
    assert isinstance(none, Rejected)
    assert none.reason == Reason.TOO_SMALL
