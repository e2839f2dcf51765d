"""Other autoencoders of diffusers by name: what diffusers' own calls give."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from encode.test_autoencoder import encode_settings, load_with, noise
from vitascope.encode import autoencoders
from vitascope.encode.buckets import Limits
from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import Strides
from vitascope.errors import Mistake

pytestmark = pytest.mark.usefixtures("one_thread")
HUNYUAN: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (16, 16, 16, 32, 32),
    "layers_per_block": 1,
}
LTX: dict[str, Any] = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "scaling_factor": 1.5,
}
KINDS = {
    "AutoencoderKLHunyuanVideo15": (HUNYUAN, Strides(time=4, space=16)),
    "AutoencoderKLLTXVideo": (LTX, Strides(time=8, space=32)),
}


def written(kind: str, folder: Path) -> Any:
    """A tiny random network, saved in a folder."""
    torch.manual_seed(0)
    network = getattr(diffusers, kind)(**KINDS[kind][0]).eval()
    if kind == "AutoencoderKLLTXVideo":
        network.latents_mean.copy_(torch.arange(8) / 10)
        network.latents_std.copy_(1 + torch.arange(8) / 10)
    network.save_pretrained(folder)
    return network


@torch.no_grad()
def of_diffusers(network: Any, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised latents (T, h, w, C) and decoded frames, as its pipelines compute them."""
    pixels = (frames.float() / 127.5 - 1).permute(3, 0, 1, 2)[None]
    latents = network.encode(pixels).latent_dist.mode()
    mean, std = 0.0, 1.0
    if hasattr(network, "latents_mean"):
        mean, std = (getattr(network, f"latents_{name}").view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    video = network.decode(latents).sample[0].clamp(-1, 1).permute(1, 2, 3, 0)
    latents = (latents - mean) * network.config.scaling_factor / std
    return latents[0].permute(1, 2, 3, 0), ((video + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("n_latent", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_frames_are_those_of_diffusers(kind: str, n_latent: int, tmp_path: Path) -> None:
    network, strides = written(kind, tmp_path), KINDS[kind][1]
    codec = make_codec(encode_settings(tmp_path))
    assert (codec.strides, codec.channels) == (strides, 8)
    frames = noise(1 + strides.time * (n_latent - 1), 64, 96)
    latents, video = of_diffusers(network, frames)
    found = codec.encode(frames)
    assert found.shape == (n_latent, 64 // strides.space, 96 // strides.space, 8)
    torch.testing.assert_close(found, latents, rtol=0, atol=2e-6)
    groups = list(codec.decode(found))
    assert [len(group) for group in groups] == [1, *[strides.time] * (n_latent - 1)]
    different = torch.cat(groups).int() - video.int()
    assert different.abs().max() <= 1
    assert (different != 0).float().mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_too_large_to_be_coded_at_once_is_refused_before_and_tiles_help(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(kind, tmp_path)
    one = "encode.frame_counts=[1,33]"
    sentence = f"{kind} codes a video at once, of at most 33,554,432 pixels in all frames, and 33 frames of "
    with pytest.raises(Mistake, match=f"{sentence}2,000,000 have 66,000,000; choose fewer frames"):
        Limits.of(load_with(tmp_path, one, "encode.max_pixels=2_000_000"))
    Limits.of(load_with(tmp_path, one, "encode.max_pixels=2_000_000", "encode.tile_pixels=1_000_000"))
    family = autoencoders.FAMILIES[kind]
    small = autoencoders.Family(family.latents, family.encode, family.decode, 64 * 96)
    monkeypatch.setitem(autoencoders.FAMILIES, kind, small)
    codec, tiled = (make_codec(encode_settings(tmp_path, tile_pixels=size)) for size in (None, 64 * 96))
    with pytest.raises(Mistake, match="codes a video at once"):
        codec.encode(noise(1, 96, 192))
    latents = tiled.encode(noise(1, 96, 192))
    with pytest.raises(Mistake, match="codes a video at once"):
        list(codec.decode(latents))
    assert torch.cat(list(tiled.decode(latents))).shape == (1, 96, 192, 3)


def test_a_decoder_that_also_removes_noise_is_refused(tmp_path: Path) -> None:
    written("AutoencoderKLLTXVideo", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"timestep_conditioning": True}))
    autoencoders.read.cache_clear()
    with pytest.raises(Mistake, match="AutoencoderKLLTXVideo: its decoder also removes noise"):
        make_codec(encode_settings(tmp_path))


def test_others_are_refused_by_a_sentence_that_names_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKLCogVideoX"}')
    known = "AutoencoderKLWan, AutoencoderKLHunyuanVideo15, AutoencoderKLLTXVideo"
    with pytest.raises(Mistake, match=f"'AutoencoderKLCogVideoX'; the known autoencoders are {known}; set"):
        make_codec(encode_settings(tmp_path))
