"""The dct codec: faithful on real frames, orthonormal, causal at the first frame, whitened."""

import math
import statistics

import pytest
import torch

from vitascope.encode.codecs import Codec, dct, make_codec, psnr_db
from vitascope.encode.codecs.dct import COEFFICIENTS, LAW, WHITENING, _kept
from vitascope.encode.settings import EncodeSettings

DEFAULT = EncodeSettings()
EVERYTHING = EncodeSettings(dct_channels=COEFFICIENTS)


def unwhiten(latents: torch.Tensor, settings: EncodeSettings) -> torch.Tensor:
    """Coefficients of the orthonormal transform, in the codec's order of falling variance."""
    variances = [LAW(t, y, x, c) for t in range(4) for y in range(8) for x in range(8) for c in range(3)]
    kept = torch.tensor(sorted(variances, reverse=True)[: settings.dct_channels])
    return latents * kept ** (WHITENING / 2) * (kept ** (1 - WHITENING)).mean().sqrt()


def video(codec: Codec, latents: torch.Tensor) -> torch.Tensor:
    """All decoded frames (F, H, W, 3)."""
    return torch.cat(list(codec.decode(latents)))


def test_real_frames_come_back_at_30_db(
    videos: dict[str, torch.Tensor], images: dict[str, torch.Tensor]
) -> None:
    codec = make_codec(DEFAULT)
    for kind in (videos, images):
        assert statistics.mean(psnr_db(x, codec.decode(codec.encode(x))) for x in kind.values()) >= 30


def test_shapes_follow_the_strides() -> None:
    codec = make_codec(DEFAULT)
    latents = codec.encode(torch.zeros(9, 16, 40, 3, dtype=torch.uint8))
    assert latents.shape == (3, 2, 5, codec.channels)
    assert latents.dtype == torch.float32
    groups = list(codec.decode(latents))
    assert [group.shape for group in groups] == [(1, 16, 40, 3), (4, 16, 40, 3), (4, 16, 40, 3)]
    assert {group.dtype for group in groups} == {torch.uint8}


def test_all_coefficients_give_every_pixel_back(videos: dict[str, torch.Tensor]) -> None:
    codec = make_codec(EVERYTHING)
    frames = videos["bikes"][:9]
    assert torch.equal(video(codec, codec.encode(frames)), frames)


def test_the_transform_keeps_energy(videos: dict[str, torch.Tensor]) -> None:
    frames = videos["bigbuckbunny"][:9]
    coefficients = unwhiten(make_codec(EVERYTHING).encode(frames), EVERYTHING)
    pixels = frames.double() / 127.5 - 1
    energy = (
        4 * pixels[:1].square().sum() + pixels[1:].square().sum()
    )  # the first stands for four equal frames
    torch.testing.assert_close(coefficients.double().square().sum(), energy, rtol=1e-5, atol=0)


def test_what_is_dropped_is_the_error(videos: dict[str, torch.Tensor]) -> None:
    frames = videos["carphone_pristine"][:5]
    kept = unwhiten(make_codec(DEFAULT).encode(frames), DEFAULT)[1:]
    pixels = frames[1:].double() / 127.5 - 1
    codec = make_codec(DEFAULT)
    error = (video(codec, codec.encode(frames))[1:].double() - frames[1:].double()) / 127.5
    missing = pixels.square().sum() - kept.double().square().sum()
    torch.testing.assert_close(error.square().sum(), missing, rtol=0.03, atol=0)  # rounding to uint8


def test_the_first_frame_is_coded_alone(videos: dict[str, torch.Tensor]) -> None:
    codec = make_codec(DEFAULT)
    frames = videos["cityCC0"][:9]
    latents = codec.encode(frames)
    torch.testing.assert_close(latents[:1], codec.encode(frames[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(latents[:2], codec.encode(frames[:5]), rtol=0, atol=1e-5)
    assert torch.equal(video(codec, latents)[:1], video(codec, latents[:1]))
    assert torch.equal(video(codec, latents)[:5], video(codec, latents[:2]))


def test_a_still_video_is_its_image_in_every_latent(images: dict[str, torch.Tensor]) -> None:
    latents = make_codec(DEFAULT).encode(images["china"].expand(5, -1, -1, -1))
    torch.testing.assert_close(latents[0], latents[1], rtol=0, atol=1e-4)


def test_latents_of_real_video_are_half_white_and_of_unit_power(videos: dict[str, torch.Tensor]) -> None:
    codec = make_codec(DEFAULT)
    latents = torch.cat([codec.encode(x)[1:].flatten(0, 2) for x in videos.values()])
    assert 0.7 < latents.std().item() < 1.3
    expected = torch.tensor([LAW(*index) for index in _kept(codec.channels)]) ** (WHITENING / 2)
    deviations = latents.std(0) / (expected / expected.square().mean().sqrt())
    assert 0.4 < deviations.min() < deviations.max() < 2.5
    assert latents.std(0)[0] > 4 * latents.std(0)[-1]  # low frequencies stay stronger


def test_luma_gets_more_channels_than_chroma() -> None:
    grey = torch.randint(0, 256, (5, 16, 16, 1), dtype=torch.uint8).expand(-1, -1, -1, 3)
    carries_luma = make_codec(DEFAULT).encode(grey)[1:].flatten(0, 2).abs().amax(0) > 1e-3
    assert carries_luma.float().mean() > 0.7


def test_latents_out_of_range_decode_to_clamped_pixels() -> None:
    codec = make_codec(DEFAULT)
    bright = torch.zeros(2, 2, 2, codec.channels)
    bright[..., 0] = 100.0  # far above white
    assert video(codec, bright).unique().tolist() == [255]
    assert video(codec, -bright).unique().tolist() == [0]


def test_bfloat16_latents_lose_next_to_nothing(videos: dict[str, torch.Tensor]) -> None:
    codec = make_codec(DEFAULT)
    frames = videos["bigbuckbunny"]
    latents = codec.encode(frames)
    full, half = (psnr_db(frames, codec.decode(x)) for x in (latents, latents.bfloat16()))
    assert full - half < 0.1


def test_the_fingerprint_names_what_shapes_a_latent() -> None:
    codec = make_codec(DEFAULT)
    assert codec.fingerprint == make_codec(DEFAULT).fingerprint
    assert codec.fingerprint != make_codec(EncodeSettings(dct_channels=32)).fingerprint


def test_more_channels_keep_the_order_of_fewer(images: dict[str, torch.Tensor]) -> None:
    settings = [EncodeSettings(dct_channels=n) for n in (16, 48)]
    few, many = (unwhiten(make_codec(s).encode(images["flower"]), s) for s in settings)
    torch.testing.assert_close(few, many[..., :16], rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 16, 16, 3), (5, 12, 16, 3), (5, 16, 16, 4), (16, 16, 3)])
def test_frames_it_cannot_code_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="frames are"):
        make_codec(DEFAULT).encode(torch.zeros(shape, dtype=torch.uint8))


def test_latents_of_another_codec_are_refused() -> None:
    with pytest.raises(ValueError, match="latents are"):
        make_codec(DEFAULT).decode(torch.zeros(1, 2, 2, 7))


def test_psnr() -> None:
    black = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    assert psnr_db(black, [black]) == 100.0
    assert psnr_db(black, [black + 255]) == 0.0
    three, groups = black.repeat(3, 1, 1, 1), [black, (black + 255).repeat(2, 1, 1, 1)]
    assert psnr_db(three, groups) == pytest.approx(10 * math.log10(3 / 2))
    with pytest.raises(ValueError, match="shorter"):
        psnr_db(black.repeat(2, 1, 1, 1), [black])


def test_large_frames_are_coded_band_by_band_to_the_same(
    videos: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, frames = make_codec(DEFAULT), videos["bigbuckbunny"][:9]
    latents = codec.encode(frames)
    decoded = video(codec, latents)
    rows: list[int] = []
    to_blocks = dct._to_blocks

    def watched(pixels: torch.Tensor) -> torch.Tensor:
        rows.append(pixels.shape[1] // 8)
        return to_blocks(pixels)

    monkeypatch.setattr(dct, "_to_blocks", watched)
    for blocks, most in ((1, 3), (32 * 5, 7), (32 * 17, 18)):
        monkeypatch.setattr(dct, "BAND_BLOCKS", blocks)
        rows.clear()
        torch.testing.assert_close(codec.encode(frames), latents, rtol=0, atol=1e-5)
        assert max(rows) == most
        assert (video(codec, latents).int() - decoded.int()).abs().max() <= 1
