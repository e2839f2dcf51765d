"""Scores by user-defined functions.

A hook is any function from frames (N H W 3, uint8, RGB) to scores (N,), named `module:function` in
`clips.filters.text.function`, `watermark` or `aesthetic`. A call gets the middle frames of several clips of
one size, without black bars; `options` are keyword arguments. Scores are kept under the name and options
(`hooked`), so a function that changes needs another name.

    [clips.filters.aesthetic]
    use = "drop"
    min = 4.5
    function = "vitascope.clips.hooks:aesthetic"
    options = {model = "/models/clip-vit-large-patch14", head = "/models/aesthetic.safetensors"}
"""

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from vitascope import storage
from vitascope.clips.dedup.hashing import embedding_hashes
from vitascope.clips.filters import HookFilter
from vitascope.clips.settings import ClipsSettings
from vitascope.errors import Mistake


def load(function: str) -> Callable[..., Any]:
    """The function at `module:function`.

    Raises:
        Mistake: there is no such module or function; names it.
    """
    module, _, name = function.partition(":")
    try:
        loaded = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Mistake(f"cannot load the function {function}: {error}; give module:function") from error
    if not callable(loaded):
        raise Mistake(f"{function} is a {type(loaded).__name__}, expected a function")
    return loaded


def check(settings: ClipsSettings) -> None:
    """Loads all hooks in use and checks the folders of their models, before any work starts.

    Raises:
        Mistake: no such function, options it does not take, or no such model; names the setting.
    """
    for name, rule in settings.filters.used():
        if isinstance(rule, HookFilter):
            where = f"clips.filters.{name}"
            try:
                function = load(str(rule.function))
            except ValueError as error:
                raise Mistake(f"{where}.function: {error}") from error
            try:
                inspect.signature(function).bind(np.empty(0), **rule.options)
            except TypeError as error:
                raise Mistake(f"{where}.options do not fit {rule.function}: {error}") from error
            if function is aesthetic:
                _check_files(rule.options, f"{where}.options")
    if settings.duplicates == "near" and settings.duplicates_model:
        _check_model(settings.duplicates_model, "clips.duplicates_model")


def _check_files(options: dict[str, Any], setting: str) -> None:
    """Checks the files in the options of `aesthetic`."""
    for key, look in (("model", _check_model), ("head", _check_head)):
        look(str(options[key]), f"{setting}.{key}")
        if not os.path.isabs(str(options[key])):
            raise Mistake(f"{setting}.{key} is relative; give the whole path, which is the same on workers")


def _check_model(folder: str, setting: str) -> None:
    """Reads the small files of a model, not its weights."""
    from transformers import AutoConfig, AutoImageProcessor

    try:
        for kind in (AutoConfig, AutoImageProcessor):
            _pretrained(kind, folder)
    except ValueError as error:
        raise Mistake(f"{setting}: {error}") from error


def _check_head(file: str, setting: str) -> None:
    if not os.path.isfile(file):
        raise Mistake(f"{setting}: {file} is no local file; give safetensors with linear layers")


def score(frames: np.ndarray, hook: HookFilter) -> np.ndarray:
    """The hook's scores, float32 (N,), of frames (N H W 3, uint8).

    Raises:
        Mistake: the function cannot be loaded, or does not return one score for each frame.
    """
    function = load(str(hook.function))
    scores = np.asarray(function(frames, **hook.options), np.float32)
    if scores.shape != (len(frames),):
        raise Mistake(
            f"{hook.function} gave {scores.shape}, expected a score for each of {len(frames)} frames"
        )
    return scores


def aesthetic(frames: np.ndarray, *, model: str, head: str) -> np.ndarray:
    """Aesthetic scores (N,) of frames (N H W 3, uint8): a linear head on the embeddings of a CLIP-like model.

    This is LAION's aesthetic predictor (Schuhmann et al. 2022, "LAION-5B"); its second version, a stack of
    linear layers without activations, works too.

    Args:
        model: folder of a transformers model with image features (CLIP, SigLIP), and its image processor.
        head: safetensors with linear layers, `*weight` and `*bias`, applied in the order of their names.
    """
    import torch

    with torch.inference_mode():
        embedding = torch.nn.functional.normalize(_embedded(frames, model), dim=-1)
        for weight, bias in _layers(head):
            embedding = torch.nn.functional.linear(embedding, weight, bias)
    return embedding[:, 0].numpy()


def looks(frames: np.ndarray, *, model: str) -> np.ndarray:
    """`hashing.embedding_hashes` of frames (N H W 3, uint8): int64 (N, 7).

    Args:
        model: folder of a transformers model with image features (CLIP, SigLIP) or one pooled output (DINOv2,
            ViT), and its image processor.
    """
    import torch

    with torch.inference_mode():
        return embedding_hashes(_embedded(frames, model).numpy())


def _embedded(frames: np.ndarray, model: str) -> Any:
    """The model's embeddings of frames (N H W 3, uint8): a float32 tensor (N, D)."""
    network, processor = _model(model)
    embed = getattr(network, "get_image_features", network)
    given = embed(**processor(images=list(frames), return_tensors="pt"))
    return getattr(given, "pooler_output", given).flatten(1).float()


@functools.lru_cache(maxsize=1)
def _model(folder: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel

    # float32: half precision is many times slower on processors without instructions for it.
    return _pretrained(AutoModel, folder).float().eval(), _pretrained(AutoImageProcessor, folder)


def _pretrained(kind: Any, folder: str) -> Any:
    """Loads an Auto class of transformers from a local folder, without network access.

    Raises:
        Mistake: there is no such folder, or it holds no such model.
    """
    expected = "give a local folder with what save_pretrained of an image model and of its processor writes"
    if not os.path.isdir(folder):
        what = "is remote; copy it to a disk" if storage.is_remote(folder) else "is no folder"
        raise Mistake(f"the model {folder} {what}; {expected}")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its type depends on the broken file
        what = f"{type(error).__name__}: {error}"
        raise Mistake(f"the model {folder} does not load ({what}); {expected}") from error


@functools.lru_cache(maxsize=1)
def _layers(head: str) -> list[tuple[Any, Any]]:
    """Weight and bias (or None) of each linear layer.

    Raises:
        Mistake: the last layer does not have one output.
    """
    from safetensors.torch import load_file

    tensors = {name: tensor.float() for name, tensor in load_file(head).items()}
    names = sorted(name for name in tensors if name.endswith("weight"))
    layers = [(tensors[name], tensors.get(name.removesuffix("weight") + "bias")) for name in names]
    if not layers or layers[-1][0].shape[0] != 1:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise Mistake(f"{head} holds {shapes}, expected linear layers of which the last gives one score")
    return layers
