"""Adapters as others publish and read them.

Three formats, each one safetensors file: Diffusers' (`transformer.…lora_A.weight`), ComfyUI's
(`diffusion_model.…lora_A.weight`, with Wan's own names) and kohya's (`lora_unet_….lora_down.weight`, with the
scale as `alpha`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor

from vitascope import storage
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.card import CARD, WEIGHTS, load_card
from vitascope.model.formats.stored import Weights, read_sealed
from vitascope.model.formats.wan_names import official_name
from vitascope.model.lora import Pair, linears, pairs_of
from vitascope.model.networks import build
from vitascope.model.settings import ModelSettings
from vitascope.train.settings import ALL_LEVELS, NoiseRange
from vitascope.weights import PICKLES, read_header
from vitascope.wording import short

AdapterFormat = Literal["diffusers", "comfyui", "kohya"]
FILES: dict[str, str] = {
    "diffusers": "pytorch_lora_weights.safetensors",
    "comfyui": "lora_comfyui.safetensors",
    "kohya": "lora_kohya.safetensors",
}
"""The file of each format; Diffusers looks for its own name in a folder."""

_DOWN, _UP, _ALPHA = (".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight"), ".alpha"
_AGAIN = "copy it again from its publisher"


def layer_shapes(settings: ModelSettings, channels: int, text_dim: int) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear layer of a network, by name."""
    with torch.device("meta"):  # only shapes
        network = build(settings.model_copy(update={"lora": None}), channels, text_dim)
    return {name: (layer.out_features, layer.in_features) for name, layer in linears(network)}


def write_adapter(folder: str, pairs: Mapping[str, Pair], format: AdapterFormat, dtype: torch.dtype) -> str:
    """Writes an adapter into `folder`, and returns the file. `pairs` are by our names of the layers.

    Raises:
        Mistake: there is such a file already.
    """
    uri = storage.join(folder, FILES[format])
    if storage.exists(uri):
        raise Mistake(f"{uri} exists; export to another folder, or delete it first")
    tensors: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        name = _published(layer, format)
        if format == "kohya":
            tensors[name + _ALPHA] = torch.tensor(pair.scale * len(pair.down))
            parts = {_DOWN[1]: pair.down, _UP[1]: pair.up}
        else:  # these have no scale: without one, readers multiply by 1
            parts = {_DOWN[0]: pair.down, _UP[0]: pair.up.float() * pair.scale}
        tensors |= {name + end: tensor.to(dtype).contiguous() for end, tensor in parts.items()}
    storage.put(uri, safetensors.torch.save(tensors, {"format": "pt"}))
    return uri


def _published(layer: str, format: AdapterFormat) -> str:
    official = official_name(f"{layer}.weight").removesuffix(".weight")
    return {
        "diffusers": f"transformer.{layer}",
        "comfyui": f"diffusion_model.{official}",
        "kohya": f"lora_unet_{official.replace('.', '_')}",
    }[format]


def read_adapter(location: str, layers: Mapping[str, tuple[int, int]]) -> dict[str, Pair]:
    """The adapter at `location` by our names of the layers, whose shapes are `layers`.

    It is a file of one of the three formats, a folder that holds one, the model folder of a run that trained
    adapters, or that run's folder.

    Raises:
        Missing: there is none.
        Mistake: it is damaged, of a format that could run code, of another network, or no plain LoRA.
    """
    if folder := _run(location):
        return _of_run(folder, layers)
    uri = _file(location)
    weights = Weights(read_header(uri, _AGAIN))
    by_name = {name: layer for layer in layers for name in _names(layer)}
    grouped: dict[str, dict[str, Tensor]] = {}
    for key in weights:
        name, part = _divided(key)
        if name not in by_name or not part:
            raise Mistake(
                f"{uri} holds {short(key, 120)}, which is no low-rank pair of a linear layer of this "
                "network; name an adapter that was made for it, as Diffusers, ComfyUI or kohya's tools "
                "write it"
            )
        parts = grouped.setdefault(by_name[name], {})
        if part in parts:
            raise Mistake(f"{uri} holds {by_name[name]} twice, under different names; keep one of them")
        parts[part] = weights[key]
    pairs = {layer: _pair(uri, layer, parts) for layer, parts in grouped.items()}
    return _checked(uri, pairs, layers)


def identity(adapters: Iterable[Mapping[str, Pair]]) -> str:
    """A hash of one adapter, or of those of several networks: of what they compute, whatever their files."""
    found = hashlib.blake2b(digest_size=16)
    for pairs in adapters:
        for layer, pair in sorted(pairs.items()):
            found.update(f"{layer} {pair.scale}".encode())
            for tensor in (pair.down, pair.up):
                found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()


def _of_run(folder: str, layers: Mapping[str, tuple[int, int]]) -> dict[str, Pair]:
    card = load_card(folder)
    if card.model.lora is None:
        raise Mistake(
            f"{folder} holds a whole model, not an adapter; set generate.model to it, or name the run of an "
            "adapter"
        )
    uri = storage.join(folder, WEIGHTS)
    return _checked(uri, pairs_of(dict(read_sealed(uri, _AGAIN)), card.model.lora), layers)


def levels_of(location: str) -> NoiseRange:
    """The noise levels that the adapter at `location` is for: those of a run's expert; else all."""
    folder = _run(location)
    return load_card(folder).expert if folder else ALL_LEVELS


def _run(location: str) -> str | None:
    """The model folder at `location`, a run's folder or a model's; None if it is neither."""
    folders = (location, storage.join(location, "model"))
    return next((folder for folder in folders if storage.exists(storage.join(folder, CARD))), None)


def _file(location: str) -> str:
    if location.endswith(PICKLES):
        raise Mistake(
            f"{location} is a pickle, and loading it could run any code; if you trust it, convert it to "
            "safetensors"
        )
    if location.endswith(".safetensors"):
        found = [location] if storage.exists(location) else []
    else:
        found = [file.uri for file in storage.level(location).files if file.uri.endswith(".safetensors")]
    if len(found) != 1:
        what = f"{len(found)} safetensors files" if found else "no safetensors file"
        raise Missing(
            f"{what} at {location}; name the file of an adapter, or the folder of the run that made it"
        )
    return found[0]


def _names(layer: str) -> Iterator[str]:
    """How files name a layer."""
    official = official_name(f"{layer}.weight").removesuffix(".weight")
    for name in (layer, official):
        yield from (name, f"transformer.{name}", f"diffusion_model.{name}", f"base_model.model.{name}")
    yield f"lora_unet_{official.replace('.', '_')}"


def _divided(key: str) -> tuple[str, str]:
    """The layer's name in a key, and which part of the pair the key holds; an empty part if neither."""
    for part, ends in {"down": _DOWN, "up": _UP, "alpha": (_ALPHA,)}.items():
        for end in ends:
            if key.endswith(end):
                return key.removesuffix(end), part
    return key, ""


def _pair(uri: str, layer: str, parts: Mapping[str, Tensor]) -> Pair:
    if not {"down", "up"} <= parts.keys():
        raise Mistake(f"{uri} has half a pair for {layer}: {', '.join(parts)}; {_AGAIN}")
    down, up = parts["down"].float(), parts["up"].float()
    scale = float(parts["alpha"]) / len(down) if "alpha" in parts else 1.0
    return Pair(down, up, scale)


def _checked(uri: str, pairs: dict[str, Pair], layers: Mapping[str, tuple[int, int]]) -> dict[str, Pair]:
    if not pairs:
        raise Mistake(f"{uri} holds no adapter; name a file with low-rank pairs")
    for layer, pair in pairs.items():
        up, down = tuple(pair.up.shape), tuple(pair.down.shape)
        if len(up) != 2 or up[1] != down[0] or (up[0], *down[1:]) != layers.get(layer):
            raise Mistake(
                f"{uri} holds a pair of shapes {up} and {down} for {layer}, which has "
                f"{_said(layers.get(layer))}; name an adapter that was made for this network"
            )
        if not (pair.up.isfinite().all() and pair.down.isfinite().all()):
            raise Mistake(f"{uri} holds values for {layer} that are not finite; {_AGAIN}")
    return pairs


def _said(shape: Iterable[int] | None) -> str:
    if shape is None:
        return "no linear layer in this network"
    n_out, n_in = shape
    return f"{n_in} inputs and {n_out} outputs"
