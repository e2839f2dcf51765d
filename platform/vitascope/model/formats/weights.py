"""Weights as others publish and read them.

In: Diffusers' folders, Wan's own, and ComfyUI's single files. Out: the same. Only safetensors files are read:
a file of another format could run code.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

import safetensors.torch
from huggingface_hub import split_state_dict_into_shards_factory
from torch import Tensor

from vitascope import storage
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.stored import Weights
from vitascope.model.formats.wan_names import (
    DIFFUSERS,
    OFFICIAL,
    Published,
    config_of,
    official_name,
    our_name,
    parse,
)
from vitascope.model.networks import shapes_of
from vitascope.section import shown
from vitascope.weights import PICKLES, Stored, differences, read_header

Format = Literal["diffusers", "wan", "comfyui"]
MOST_BYTES = 10 * 10**9
"""Of a file of weights, by default; Diffusers' own limit."""

SUBFOLDER = "transformer"
"""Of a pipeline, with the network."""

_CONFIG = "config.json"
_SUFFIX, _INDEX = ".safetensors", ".safetensors.index.json"
_COMFYUI = "diffusion_model.safetensors"
_PATTERN = "diffusion_pytorch_model{suffix}.safetensors"
_AGAIN = "copy it again from its publisher"


def read_config(folder: str) -> Published:
    """The sizes of the network in a published folder: a whole pipeline's, or the transformer's alone.

    Raises:
        Missing: there is no configuration.
        Mistake: it is of another model, or damaged.
    """
    uri = storage.join(_transformer(folder), _CONFIG)
    return parse(read_document(uri), uri)


def open_weights(location: str, of: Published) -> Weights:
    """The weights, by our names, of a published folder or of one file; only headers are read so far.

    Raises:
        Missing: the folder has no weights.
        Mistake: they are of a format that could run code, damaged, ambiguous, or do not fit the sizes.
    """
    files = _files(location if location.endswith((_SUFFIX, *PICKLES)) else _transformer(location))
    tensors: dict[str, Stored] = {}
    for uri, names in files.items():
        held = read_header(uri, _AGAIN)
        if lacking := sorted((names or held.keys()) - held.keys()):
            raise Mistake(f"{uri} lacks {lacking[0]}, which the index of the folder promises; {_AGAIN}")
        tensors |= {our_name(name): stored for name, stored in held.items()}
    weights = Weights(tensors)
    if wrong := differences(weights.shapes, shapes_of(of.settings, of.channels, of.text_dim)):
        raise Mistake(f"the weights in {location} do not fit the configuration: {wrong}; {_AGAIN}")
    return weights


def _transformer(folder: str) -> str:
    """The folder with the configuration: the given one, or a pipeline's subfolder."""
    candidates = [folder, storage.join(folder, SUBFOLDER)]
    for candidate in candidates:
        if storage.exists(storage.join(candidate, _CONFIG)):
            return candidate
    raise Missing(
        f"no {_CONFIG} in {' or '.join(candidates)}; name a folder as published, with its configuration"
    )


def read_document(uri: str) -> dict[str, Any]:
    """A JSON object of a published folder.

    Raises:
        Missing: the file does not exist.
        Mistake: it holds something else.
    """
    try:
        document = storage.read_json(uri)
    except FileNotFoundError:
        raise Missing(f"no {uri.rpartition('/')[2]} in {uri.rpartition('/')[0]}; {_AGAIN}") from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Mistake(f"{uri} is no JSON object; {_AGAIN}")
    return document


def _files(location: str) -> dict[str, set[str] | None]:
    """The files of weights, and the names that an index expects in each; None without an index."""
    if location.endswith((_SUFFIX, *PICKLES)):
        held = [location]
    else:
        held = [file.uri for file in storage.level(location).files]
    indices, singles = ([uri for uri in held if uri.endswith(suffix)] for suffix in (_INDEX, _SUFFIX))
    found = indices or singles
    if not found and (pickles := [uri for uri in held if uri.endswith(PICKLES)]):
        raise Mistake(
            f"{pickles[0]} is a pickle, and loading it could run any code; if you trust it, convert it to "
            "safetensors, or name a folder that has weights as safetensors"
        )
    if not found:
        raise Missing(f"no *{_SUFFIX} in {location}; name a folder as published, with its weights")
    if len(found) > 1:
        names = ", ".join(uri.rpartition("/")[2] for uri in found[:3])
        raise Mistake(
            f"{location} holds {len(found)} sets of weights ({names}); keep one of them in a folder"
        )
    return _indexed(found[0]) if indices else {found[0]: None}


def _indexed(uri: str) -> dict[str, set[str] | None]:
    """The files that an index names, which are next to it."""
    by_name = read_document(uri).get("weight_map")
    if not isinstance(by_name, dict) or not all(isinstance(file, str) for file in by_name.values()):
        raise Mistake(f"{uri} has no weight_map; {_AGAIN}")
    files: dict[str, set[str] | None] = {}
    for file in sorted(set(by_name.values())):
        if "/" in file:
            raise Mistake(f"{uri} names {shown(file)}; expected files in the same folder; {_AGAIN}")
        part = storage.join(uri.rpartition("/")[0], file)
        if not storage.exists(part):
            raise Missing(f"{uri} names {file}, which is not in the folder; {_AGAIN}")
        files[part] = {name for name, of in by_name.items() if of == file}
    return files


def export_weights(
    folder: str,
    tensors: Mapping[str, Tensor],
    of: Published,
    *,
    format: Format = "diffusers",
    most_bytes: int = MOST_BYTES,
) -> None:
    """Writes weights, given by our names, as others read them: weights first, then index and configuration.

    diffusers: `config.json` and `diffusion_pytorch_model*.safetensors`, of at most `most_bytes` a file,
    divided as Diffusers does. wan: the same with Wan's own names and configuration. comfyui: one file with
    Wan's own names. Tensors keep their number format. Each is looked up twice, so that no more than a file's
    are in memory if `tensors` reads them when they are looked up.

    Raises:
        Mistake: the weights do not fit the sizes, or the folder holds other weights.
    """
    if of.settings.network != "wan":
        raise Mistake(f"model.network = {of.settings.network} has no published format; expected wan")
    expected = shapes_of(of.settings, of.channels, of.text_dim)
    shapes, sizes = {}, {}
    for name, tensor in tensors.items():
        shapes[name], sizes[name] = tuple(tensor.shape), tensor.nbytes
    if wrong := differences(shapes, expected):
        raise Mistake(f"these weights are not those of the network to be published: {wrong}")
    files = _divided({name: sizes[name] for name in expected}, format, most_bytes)
    index_name = _PATTERN.format(suffix="") + ".index.json"
    _refuse_others(folder, {*files, index_name} if len(files) > 1 else {*files})
    published = {name: name if format == "diffusers" else official_name(name) for name in expected}
    for file, names in files.items():
        content = {published[name]: tensors[name].detach().cpu().contiguous() for name in names}
        storage.put(storage.join(folder, file), safetensors.torch.save(content, {"format": "pt"}))
    if len(files) > 1:
        by_name = {published[name]: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": by_name}
        _put_json(storage.join(folder, index_name), index)
    if format != "comfyui":
        config = config_of(of, DIFFUSERS if format == "diffusers" else OFFICIAL)
        _put_json(storage.join(folder, _CONFIG), config)


def _divided(sizes: Mapping[str, int], format: Format, most_bytes: int) -> Mapping[str, list[str]]:
    """The files to write, and the weights of each, given their sizes in bytes."""
    if format == "comfyui":
        return {_COMFYUI: list(sizes)}
    split = split_state_dict_into_shards_factory(
        dict(sizes), get_storage_size=int, filename_pattern=_PATTERN, max_shard_size=most_bytes
    )
    return split.filename_to_tensors


def _refuse_others(folder: str, names: set[str]) -> None:
    """Refuses to write `names` into a folder that would then hold two sets of weights."""
    held = {file.uri.rpartition("/")[2] for file in storage.level(folder).files}
    if same := sorted(held & names):
        raise Mistake(f"{folder} already holds {same[0]}; export to another folder, or delete it first")
    if others := sorted(name for name in held - names if name.endswith((_SUFFIX, _INDEX, *PICKLES))):
        raise Mistake(f"{folder} holds other weights ({others[0]}); export to another folder, or delete them")


def _put_json(uri: str, document: Mapping[str, Any]) -> None:
    """As Diffusers writes it."""
    storage.put(uri, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
