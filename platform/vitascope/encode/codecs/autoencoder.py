"""The `diffusers` codec: a pretrained video autoencoder."""

import functools
import json
import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import safetensors.torch
import torch

from vitascope.encode import autoencoders
from vitascope.encode.autoencoders import Folder
from vitascope.encode.codecs.groups import check_frames, check_latents, groups
from vitascope.encode.codecs.tiles import RULE, Tile, decode_tiles, encode_tiles, tiles
from vitascope.encode.machine import local_copy
from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Mistake
from vitascope.precision import DTYPES, fastest
from vitascope.records import stable_id
from vitascope.weights import differences


class Autoencoder:
    """A pretrained autoencoder of one of `autoencoders.FAMILIES`, from `settings.codec_folder`.

    A latent is the mode of the encoder's distribution, normalised with the mean and std of each channel from
    the config. Frames are coded a group at a time: a longer video takes more memory only for its latents, a
    few times over, and its uint8 frames. Frames larger than `settings.tile_pixels` are coded as overlapping
    tiles, one after the other: then a larger frame takes more memory only for its own pixels. Weights are
    loaded by the first `encode` or `decode`. On NVIDIA GPUs torch computes float32 convolutions in TF32.

    Raises:
        Mistake: the folder holds no such autoencoder, or its weights are not whole.
    """

    def __init__(self, settings: EncodeSettings, device: torch.device) -> None:
        assert settings.codec_folder is not None, "the settings refuse codec diffusers without a folder"
        self._folder = autoencoders.read(settings.codec_folder)
        self._folder.shapes()  # raises for missing or truncated weights
        self._family = autoencoders.FAMILIES[self._folder.kind]
        self._device, self._precision = device, settings.codec_precision
        self._tile_pixels = settings.tile_pixels
        self._largest = max((h * w for _, h, w in settings.buckets or ()), default=settings.max_pixels)
        self._mean = torch.tensor(self._folder.latents.mean, device=device)
        self._std = torch.tensor(self._folder.latents.std, device=device)
        self.strides = self._folder.latents.strides
        self.channels = len(self._folder.latents.mean)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the class, the config, the weights and the precision."""
        folder = self._folder
        config = json.dumps(folder.config, sort_keys=True)
        tiling = (RULE, self._tile_pixels) if self._tile_pixels and self._largest > self._tile_pixels else ()
        return stable_id("diffusers", folder.kind, config, folder.weights_hash(), self._precision, *tiling)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 (1 + k * time, H, W, 3) -> float32 (1 + k, H / space, W / space, C)."""
        check_frames(frames, self.strides)
        height, width = (side // self.strides.space for side in frames.shape[1:3])
        grid = self._tiles(height, width)
        if len(grid) == 1:
            return self._encoded(frames)
        return encode_tiles(frames, grid, self.strides.space, self._encoded)

    def _tiles(self, height: int, width: int) -> list[Tile]:
        """Of a frame of so many latent pixels."""
        most = (self._tile_pixels or math.inf) / self.strides.space**2
        return tiles(height, width, int(min(most, height * width)))

    @torch.no_grad()
    def _encoded(self, frames: torch.Tensor) -> torch.Tensor:
        self._folder.check_at_once(len(frames), frames.shape[1] * frames.shape[2])
        network, dtype = self._network
        pixels = (self._pixels(group).to(dtype) for group in groups(frames, self.strides.time))
        mode = self._family.encode(network, pixels)[0].movedim(0, -1)
        return mode.contiguous().float().sub_(self._mean).div_(self._std)

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Float (1 + k, h, w, C) -> the video as groups uint8 (f, space * h, space * w, 3)."""
        check_latents(latents, self.channels)
        return self.decode_parts([latents])

    def decode_parts(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The same of latents that come in parts."""
        waiting = iter(parts)
        first = next(waiting)
        grid = self._tiles(*first.shape[1:3])
        if len(grid) == 1:
            yield from self._decoded(chain([first], waiting))
            return
        whole = torch.cat([first, *waiting])
        for group in decode_tiles(whole, grid, self.strides.space, lambda tile: self._decoded([tile])):
            yield group.to(self._device)

    @torch.no_grad()
    def _decoded(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for group in self._pixel_groups(parts):
            yield ((group[0].movedim(0, -1).float() + 1) * 127.5).round().to(torch.uint8).contiguous()

    def _pixel_groups(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The decoded video as groups (1, 3, f, H, W) of pixels in [-1, 1]."""
        network, dtype = self._network
        if self._family.most_pixels:
            time, space = self.strides
            latents = torch.cat(list(parts))
            n_frames, height, width = latents.shape[:3]
            self._folder.check_at_once(1 + time * (n_frames - 1), height * width * space**2)
            parts = [latents]
        modes = (part.to(self._device).float() * self._std + self._mean for part in parts)
        return self._family.decode(network, (m.movedim(-1, 0)[None].to(dtype).contiguous() for m in modes))

    def _pixels(self, group: torch.Tensor) -> torch.Tensor:
        """uint8 (f, H, W, 3) -> float32 (1, 3, f, H, W) in [-1, 1]."""
        return (group.to(self._device).float() / 127.5 - 1).movedim(-1, 0)[None].contiguous()

    @functools.cached_property
    def _network(self) -> tuple[Any, torch.dtype]:
        dtype = fastest(self._device, DTYPES[self._precision])
        return _loaded(self._folder, dtype).to(self._device), dtype


def _loaded(folder: Folder, dtype: torch.dtype) -> torch.nn.Module:
    """The network in evaluation mode, on the CPU. Raises Mistake if weights and config do not fit."""
    network = _without_weights(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if wrong := differences(folder.shapes(), expected):
        config = f"the {autoencoders.CONFIG} next to it"
        raise Mistake(f"{folder.weights} does not fit {config}: {wrong}; {autoencoders.REMEDY}")
    stored = safetensors.torch.load_file(local_copy(folder.uri) / autoencoders.WEIGHTS)
    network.load_state_dict({name: stored[name].to(dtype) for name in stored}, assign=True)
    return network.eval().requires_grad_(False)


def _without_weights(folder: Folder) -> torch.nn.Module:
    """The network that the config describes; its weights have shapes only."""
    import diffusers  # takes seconds
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of keys of the config that are without effect
    try:
        with torch.device("meta"):
            return getattr(diffusers, folder.kind).from_config(dict(folder.config))
    finally:
        logging.set_verbosity(level)
