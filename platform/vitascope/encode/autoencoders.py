"""Autoencoders in folders that diffusers wrote.

A folder is described by its `config.json`, so that planning needs neither torch nor weights. A class of
autoencoders is a line in `FAMILIES`.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitascope import storage
from vitascope.encode import published
from vitascope.encode.settings import Strides
from vitascope.errors import Missing, Mistake
from vitascope.section import shown
from vitascope.weights import PICKLES, Shapes, stored_shapes

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
REMEDY = "copy the folder again from where diffusers wrote it, or set encode.codec_folder to another"
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Latents:
    """The latents of an autoencoder. mean, std: of each of its channels."""

    strides: Strides
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Family:
    """The autoencoders of one class of diffusers.

    latents: from the config; raises KeyError, TypeError or ValueError for a wrong one.
    encode: (network, groups of pixels (1, 3, f, H, W) in [-1, 1]) -> mode of the latents (1, C, T, h, w). The
        first group is one frame, every other one `strides.time` frames.
    decode: (network, latents in parts (1, C, t, h, w)) -> the groups, for each latent frame one.

    Both give what one call for the whole video gives, bit by bit, and hold the features of one group only,
    unless `most_pixels` is set: the pixels of all frames of the largest video, which is coded at once, and
    decoded from one part.
    """

    latents: Callable[[Config], Latents]
    encode: Callable[[Any, Iterable["Tensor"]], "Tensor"]
    decode: Callable[[Any, Iterable["Tensor"]], Iterator["Tensor"]]
    most_pixels: int | None = None


def _wan_latents(config: Config) -> Latents:
    halvings, in_time = len(config["dim_mult"]) - 1, config["temperal_downsample"]
    strides = Strides(
        time=2 ** sum(map(bool, in_time[:halvings])),
        space=2**halvings * int(config.get("patch_size") or 1),
    )
    mean, std = (tuple(map(float, config[name])) for name in ("latents_mean", "latents_std"))
    if not len(mean) == len(std) == config["z_dim"]:
        raise ValueError(f"{len(mean)} means and {len(std)} stds of {config['z_dim']} channels")
    if not min(std) > 0:
        raise ValueError("a std that is not above 0")
    return Latents(strides, mean, std)


def _wan_encode(network: Any, groups: Iterable["Tensor"]) -> "Tensor":
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    cache: defaultdict[int, Any] = defaultdict(lambda: None)  # of each convolution, its last frames
    patches = (patchify(group, network.config.patch_size or 1) for group in groups)
    coded = torch.cat([network.encoder(x, feat_cache=cache, feat_idx=[0]) for x in patches], dim=2)
    # At some sizes a frame alone would differ in the last bit.
    return network.quant_conv(coded).chunk(2, dim=1)[0]


def _wan_decode(network: Any, parts: Iterable["Tensor"]) -> Iterator["Tensor"]:
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    cache: defaultdict[int, Any] = defaultdict(lambda: None)
    latents = (latent for part in parts for latent in network.post_quant_conv(part).split(1, dim=2))
    for i, latent in enumerate(latents):
        pixels = network.decoder(latent, feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
        yield unpatchify(pixels, network.config.patch_size or 1).clamp(-1, 1)


def _scaled(config: Config, time: int, space: int) -> Latents:
    """Latents that one factor normalises."""
    channels, factor = int(config["latent_channels"]), float(config["scaling_factor"])
    if not factor > 0:
        raise ValueError(f"a scaling_factor of {factor}")
    return Latents(Strides(time, space), (0.0,) * channels, (1 / factor,) * channels)


def _hunyuan_latents(config: Config) -> Latents:
    return _scaled(
        config, int(config["temporal_compression_ratio"]), int(config["spatial_compression_ratio"])
    )


def _ltx_latents(config: Config) -> Latents:
    if config.get("timestep_conditioning"):
        raise ValueError("its decoder also removes noise, which Vitascope does not do")
    halvings = sum(map(bool, config["spatio_temporal_scaling"]))
    ratios = config.get("temporal_compression_ratio"), config.get("spatial_compression_ratio")
    patches = config["patch_size_t"], config["patch_size"]
    time, space = (int(r or patch * 2**halvings) for r, patch in zip(ratios, patches, strict=True))
    return _scaled(config, time, space)


def _whole_encode(network: Any, groups: Iterable["Tensor"]) -> "Tensor":
    import torch

    mode = network.encode(torch.cat(list(groups), dim=2)).latent_dist.mode()
    return (mode - _buffer(network, "latents_mean", 0)) / _buffer(network, "latents_std", 1)


def _whole_decode(network: Any, parts: Iterable["Tensor"]) -> Iterator["Tensor"]:
    (latents,) = parts
    latents = latents * _buffer(network, "latents_std", 1) + _buffer(network, "latents_mean", 0)
    pixels = network.decode(latents).sample.clamp(-1, 1)
    yield pixels[:, :, :1]
    if pixels.shape[2] > 1:
        yield from pixels[:, :, 1:].split(network.temporal_compression_ratio, dim=2)


def _buffer(network: Any, name: str, otherwise: float) -> Any:
    """A statistic that the weights' file has, as (C, 1, 1, 1)."""
    values = getattr(network, name, None)
    return otherwise if values is None else values.view(-1, 1, 1, 1)


AT_ONCE = 1 << 25
"""Pixels of all frames of a video that is coded at once: 81 frames of 848 x 480."""

FAMILIES = {
    "AutoencoderKLWan": Family(_wan_latents, _wan_encode, _wan_decode),
    "AutoencoderKLHunyuanVideo15": Family(_hunyuan_latents, _whole_encode, _whole_decode, AT_ONCE),
    "AutoencoderKLLTXVideo": Family(_ltx_latents, _whole_encode, _whole_decode, AT_ONCE),
}
"""By class in diffusers."""


@dataclass(frozen=True)
class Folder:
    """An autoencoder's own folder.

    kind: its class in diffusers. config: what decides the network and its latents.
    """

    uri: str
    kind: str
    config: Config
    latents: Latents

    def check_at_once(self, n_frames: int, area: int) -> None:
        """Raises Mistake if a video of `area` pixels a frame is too large to be coded at once, as it must."""
        most = FAMILIES[self.kind].most_pixels
        if most and n_frames * area > most:
            raise Mistake(
                f"{self.kind} codes a video at once, of at most {most:,} pixels in all frames, and "
                f"{n_frames} frames of {area:,} have {n_frames * area:,}; choose fewer frames "
                "(encode.frame_counts, encode.buckets) or smaller ones (encode.max_pixels), or set "
                "encode.tile_pixels"
            )

    @property
    def weights(self) -> str:
        """The location of its weights."""
        return storage.join(self.uri, WEIGHTS)

    def shapes(self) -> Shapes:
        """The shapes of its weights, from the file's header.

        Raises:
            Mistake: the weights are missing, of a format that could run code, or not whole.
        """
        if not storage.exists(self.weights):
            files = [file.uri for file in storage.level(self.uri).files]
            if pickled := [uri for uri in files if uri.endswith(PICKLES)]:
                raise Mistake(
                    f"{pickled[0]} is a pickle, which could run code, and is not read; save the autoencoder "
                    f"as {WEIGHTS}, with save_pretrained of diffusers"
                )
            raise Missing(f"{self.uri} has a {CONFIG} and no {WEIGHTS}; {REMEDY}")
        return stored_shapes(self.weights, REMEDY)

    def weights_hash(self) -> str:
        """A hash of the weights."""
        return published.content_hash(self.weights)


@functools.cache
def read(place: str) -> Folder:
    """The autoencoder in `place`, or in its subfolder `vae` if `place` is a pipeline; remembered.

    Raises:
        Missing: there is none.
        Mistake: its config is damaged, or of a class that is not known.
    """
    uri, config = _config(place)
    location, kind = storage.join(uri, CONFIG), str(config.get("_class_name"))
    if kind not in FAMILIES:
        raise Mistake(
            f"{location} describes a {shown(kind)}; the known autoencoders are {', '.join(FAMILIES)}; set "
            "encode.codec_folder to the folder of one"
        )
    try:
        latents = FAMILIES[kind].latents(config)
    except (KeyError, TypeError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise Mistake(f"{location} does not describe an {kind}: {what}; {REMEDY}") from None
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return Folder(uri, kind, own, latents)


def _config(place: str) -> tuple[str, Config]:
    """The folder with a config, and its content."""
    for uri in (storage.join(place, "vae"), place):
        location = storage.join(uri, CONFIG)
        try:
            config = storage.read_json(location)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, RecursionError):
            raise Mistake(f"{location} is no JSON document; {REMEDY}") from None
        if not isinstance(config, dict):
            raise Mistake(f"{location} holds no config of an autoencoder; {REMEDY}")
        return uri, config
    raise Missing(
        f"no {CONFIG} in {place} or in its vae folder; set encode.codec_folder to a folder that diffusers "
        "wrote: an autoencoder, or a pipeline with one"
    )
