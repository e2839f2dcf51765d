"""Buckets: near native size, any aspect, never upscaled; and frames fitted to them."""

import numpy as np
import pytest
import torch

from vitascope.config import SettingsError, load
from vitascope.encode.buckets import choose, count_tokens, cropped_share, latent_shape
from vitascope.encode.resize import fit
from vitascope.encode.settings import EncodeSettings
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize

STRIDE = 16


def many_sizes() -> list[tuple[int, int]]:
    draw = np.random.default_rng(0)
    sides = np.exp(draw.uniform(np.log(64), np.log(4000), (2000, 2))).astype(int)
    return [(int(w), int(h)) for w, h in sides if max(w, h) < 4 * min(w, h)]


@pytest.mark.parametrize("max_pixels", [96 * 160, 256 * 256, 720 * 1280])
def test_every_bucket_keeps_to_the_rules(max_pixels: int) -> None:
    settings = EncodeSettings(max_pixels=max_pixels)
    for width, height in many_sizes():
        size = choose(width, height, 20, settings, stride_px=STRIDE)
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
    areas = [choose(w, h, 1, settings, stride_px=STRIDE) for w, h in many_sizes() if w * h > 256 * 256]
    assert np.median([s.height * s.width for s in areas]) > 0.85 * 256 * 256


def test_native_sizes_are_kept() -> None:
    assert choose(1280, 720, 1, EncodeSettings(), stride_px=16) == VideoSize(1, 720, 1280)
    assert choose(720, 1280, 9, EncodeSettings(), stride_px=16) == VideoSize(9, 1280, 720)
    assert choose(176, 144, 8, EncodeSettings(), stride_px=16) == VideoSize(1, 144, 176)
    assert choose(640, 427, 1, EncodeSettings(), stride_px=16) == VideoSize(1, 416, 640)


def test_sizes_differ_and_are_no_single_square() -> None:
    settings = EncodeSettings(max_pixels=256 * 256)
    shapes = {choose(w, h, 1, settings, stride_px=STRIDE) for w, h in many_sizes()}
    assert len(shapes) > 20
    assert sum(s.height == s.width for s in shapes) < len(shapes) / 4


@pytest.mark.parametrize(("frames", "bucket"), [(1, 1), (8, 1), (9, 9), (40, 33), (1000, 129)])
def test_the_longest_duration_that_the_clip_fills(frames: int, bucket: int) -> None:
    assert choose(64, 64, frames, EncodeSettings(), stride_px=16).n_frames == bucket


def test_what_fits_no_bucket_is_rejected_with_its_reason() -> None:
    with pytest.raises(Rejected) as too_small:
        choose(200, 15, 9, EncodeSettings(), stride_px=16)
    assert too_small.value.reason == Reason.TOO_SMALL
    with pytest.raises(Rejected, match="frame_counts") as too_short:
        choose(200, 200, 8, EncodeSettings(frame_counts=(9, 17)), stride_px=16)
    assert too_short.value.reason == Reason.NO_BUCKET
    with pytest.raises(Rejected, match="max_pixels") as too_narrow:
        choose(5000, 20, 9, EncodeSettings(max_pixels=1024), stride_px=16)
    assert too_narrow.value.reason == Reason.NO_BUCKET


@pytest.mark.parametrize("counts", ["[8]", "[9, 1]", "[1, 1]", "[-3]"])
def test_wrong_frame_counts_are_refused_by_the_settings(counts: str) -> None:
    with pytest.raises(SettingsError, match="frame_counts"):
        load(None, [f"encode.frame_counts={counts}"])


def test_latent_sizes() -> None:
    size = VideoSize(9, 96, 160)
    assert latent_shape(size) == (3, 12, 20)
    assert count_tokens(size, patch=2) == 3 * 6 * 10
    with pytest.raises(ValueError, match="1 \\+ 4k"):
        latent_shape(VideoSize(8, 96, 160))


def test_fit_covers_and_crops_around_the_centre() -> None:
    frames = np.zeros((3, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 200  # the middle half stays, the black sides go
    fitted = fit(frames, VideoSize(2, 16, 16))
    assert fitted.shape == (2, 16, 16, 3)
    assert fitted.dtype == torch.uint8
    assert fitted.float().mean() > 195


def test_fit_is_antialiased() -> None:
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    fitted = fit(stripes, VideoSize(1, 16, 16)).float()
    assert (
        fitted[:, :, 2:-2] - 127.5
    ).abs().max() < 12  # grey, where picking pixels would give black or white


def test_fit_leaves_frames_of_the_right_size_alone() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), np.uint8)
    frames.flags.writeable = False
    assert np.array_equal(fit(frames, VideoSize(5, 32, 48)).numpy(), frames)


def test_fit_refuses_what_are_no_frames() -> None:
    with pytest.raises(ValueError, match="float32"):
        fit(np.zeros((1, 8, 8, 3), np.float32), VideoSize(1, 8, 8))
    with pytest.raises(ValueError, match="F >= 5"):
        fit(np.zeros((1, 8, 8, 3), np.uint8), VideoSize(5, 8, 8))
