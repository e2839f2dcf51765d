"""The diffusers codec: Wan's two layouts as tiny random networks, compared with diffusers' own calls."""

import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from media.made import read_clip
from synthetic import tiny_card
from vitascope import storage
from vitascope.config import Settings, SettingsError, load
from vitascope.encode import autoencoders, stage
from vitascope.encode.buckets import Limits
from vitascope.encode.codecs import autoencoder, make_codec
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.settings import EncodeSettings, Strides
from vitascope.encode.shards import read_samples
from vitascope.encode.strides import strides_of
from vitascope.errors import Missing, Mistake
from vitascope.generate import request as requests
from vitascope.generate.app import Denoised, DecodeWrite, Maker, Target
from vitascope.generate.settings import GenerateSettings
from vitascope.model.card import ModelCard
from vitascope.model.check import check_model

LAYOUTS: dict[str, dict[str, Any]] = {
    "2.1": {"z_dim": 16},
    "2.2": {
        "z_dim": 48,
        "decoder_base_dim": 12,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": [i / 100 for i in range(48)],
        "latents_std": [1 + i / 100 for i in range(48)],
    },
}
STRIDES = {"2.1": Strides(time=4, space=8), "2.2": Strides(time=4, space=16)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of several processes on few cores wait for each other, for minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def networks() -> dict[str, Any]:
    """A network of each layout, as diffusers makes it."""
    torch.manual_seed(0)
    common = {"base_dim": 8, "num_res_blocks": 1}
    return {name: diffusers.AutoencoderKLWan(**common, **own).eval() for name, own in LAYOUTS.items()}


@pytest.fixture(scope="session")
def folders(networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their folders; that of 2.2 is a pipeline's, with the autoencoder in `vae`."""
    places = {name: tmp_path_factory.mktemp("wan") for name in LAYOUTS}
    networks["2.1"].save_pretrained(places["2.1"])
    networks["2.2"].save_pretrained(places["2.2"] / "vae")
    return places


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the folder of 2.1, to change."""
    return Path(shutil.copytree(folders["2.1"], tmp_path / "copy"))


def encode_settings(folder: object, **other: Any) -> EncodeSettings:
    return EncodeSettings(codec="diffusers", codec_folder=str(folder), **other)


def changed_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    autoencoders.read.cache_clear()


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def statistics(network: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the latents' channels, as (C, 1, 1, 1)."""
    own = network.config.latents_mean, network.config.latents_std
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in own)
    return mean, std


@torch.no_grad()
def latents_at_once(network: Any, frames: torch.Tensor) -> torch.Tensor:
    """The normalised mode (T, h, w, C) of the whole video in one call of diffusers."""
    pixels = (frames.float() / 127.5 - 1).permute(3, 0, 1, 2)[None].contiguous()
    mean, std = statistics(network)
    return ((network.encode(pixels).latent_dist.mode()[0] - mean) / std).permute(1, 2, 3, 0)


@torch.no_grad()
def pixels_at_once(network: Any, latents: torch.Tensor) -> torch.Tensor:
    """The pixels (1, 3, F, H, W) of the whole latent in one call of diffusers."""
    mean, std = statistics(network)
    return network.decode((latents.permute(3, 0, 1, 2) * std + mean)[None]).sample


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_and_channels_are_the_folders(layout: str, folders: dict[str, Path]) -> None:
    settings = encode_settings(folders[layout])
    codec = make_codec(settings)
    assert codec.strides == strides_of(settings) == STRIDES[layout]
    assert codec.channels == LAYOUTS[layout]["z_dim"]
    assert Limits.of(load_with(folders[layout])).patching.side_px == 2 * STRIDES[layout].space


def load_with(folder: Path, *overrides: str) -> Settings:
    return load(None, ["encode.codec=diffusers", f"encode.codec_folder={folder}", *overrides])


@pytest.mark.parametrize("n_frames", [1, 5, 17])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_latents_and_frames_equal_those_of_one_call_bit_by_bit(
    layout: str, n_frames: int, folders: dict[str, Path], networks: dict[str, Any]
) -> None:
    codec, network, frames = (
        make_codec(encode_settings(folders[layout])),
        networks[layout],
        noise(n_frames, 32, 64),
    )
    assert isinstance(codec, autoencoder.Autoencoder)
    latents = codec.encode(frames)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, latents_at_once(network, frames))
    whole = pixels_at_once(network, latents)
    assert torch.equal(torch.cat(list(codec._pixel_groups(latents)), dim=2), whole)
    groups = list(codec.decode(latents))
    assert [len(group) for group in groups] == [1, *[4] * (n_frames // 4)]
    expected = ((whole[0].permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(torch.cat(groups), expected)


def test_videos_decoded_in_turn_do_not_mix(folders: dict[str, Path]) -> None:
    codec = make_codec(encode_settings(folders["2.1"]))
    videos = [codec.encode(noise(9, 16, 16)), codec.encode(255 - noise(9, 16, 16))]
    alone = [torch.cat(list(codec.decode(latents))) for latents in videos]
    in_turn = zip(*(codec.decode(latents) for latents in videos), strict=True)
    for groups, video in zip(zip(*in_turn, strict=True), alone, strict=True):
        assert torch.equal(torch.cat(groups), video)


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and still alive, and the most of them at once."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, kept: torch.UntypedStorage) -> None:
        key = kept._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += kept.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(kept, self._forget, key, kept.nbytes())

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.now -= n_bytes


def most_bytes(work: Callable[[torch.Tensor], object], given: torch.Tensor) -> int:
    """The most memory that `work(given)` takes, without `given`."""
    with Live([given]) as live:
        work(given)
    return live.most


def test_memory_does_not_grow_with_the_video(folders: dict[str, Path], networks: dict[str, Any]) -> None:
    codec, network = make_codec(encode_settings(folders["2.1"])), networks["2.1"]
    videos = [noise(17, 16, 16), noise(257, 16, 16)]
    latents = [codec.encode(frames) for frames in videos]
    grown_frames, grown_latents = (few_many[1].nbytes - few_many[0].nbytes for few_many in (videos, latents))
    for work, given in ((codec.encode, videos), (lambda x: [0 for _ in codec.decode(x)], latents)):
        few, many = (most_bytes(work, one) for one in given)
        assert many - few <= 5 * grown_latents
    few, many = (most_bytes(lambda frames: latents_at_once(network, frames), frames) for frames in videos)
    assert many - few > 4 * grown_frames > 40 * grown_latents
