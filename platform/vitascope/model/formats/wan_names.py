"""Wan's configurations and names of weights, as published.

Two ways: Diffusers' folders, whose names are ours, and Wan's own, which ComfyUI uses, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pydantic import ValidationError

from vitascope.errors import Mistake
from vitascope.model.settings import ModelSettings
from vitascope.model.wan import EPS, TEXT_POSITIONS, TIME_FEATURES
from vitascope.section import shown

Config = Mapping[str, Any]
DIFFUSERS, OFFICIAL = "WanTransformer3DModel", "WanModel"
"""The class that a configuration names."""

_FIXED: dict[str, Config] = {
    DIFFUSERS: {
        "freq_dim": TIME_FEATURES,
        "eps": EPS,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "image_dim": None,
        "added_kv_proj_dim": None,
        "pos_embed_seq_len": None,
    },
    OFFICIAL: {
        "freq_dim": TIME_FEATURES,
        "eps": EPS,
        "cross_attn_norm": True,
        "qk_norm": True,
        "text_len": TEXT_POSITIONS,
        "window_size": [-1, -1],
    },
}
"""What this network has no setting for; a configuration may leave a key out."""
_KEYS = {DIFFUSERS: ("num_attention_heads", "in_channels"), OFFICIAL: ("num_heads", "in_dim")}
_PATCH, _TEXT_DIM = [1, 2, 2], 4096  # if a configuration leaves them out

_HEAD_DIM = 128
_TEXT_IN = "condition_embedder.text_embedder.linear_1.weight"
_OF_BLOCK = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",  # the norm before cross-attention
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
} | {
    f"{attention[0]}.{part[0]}": f"{attention[1]}.{part[1]}"
    for attention, part in product(
        [("attn1", "self_attn"), ("attn2", "cross_attn")],
        [
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        ],
    )
}
_OF_REST = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
_PREFIX = "model.diffusion_model."  # of checkpoints that hold a whole pipeline


@dataclass(frozen=True)
class Published:
    """A network's sizes, and the configuration they were read from; empty if there was none."""

    settings: ModelSettings
    channels: int
    text_dim: int
    config: Config = field(default_factory=dict)


def official_name(name: str) -> str:
    """Wan's own name of one of our weights."""
    return _renamed(name, _OF_BLOCK, _OF_REST)


def our_name(name: str) -> str:
    """Our name of a weight under Wan's own, with or without a pipeline's prefix; others are unchanged."""
    of_block, of_rest = ({theirs: ours for ours, theirs in names.items()} for names in (_OF_BLOCK, _OF_REST))
    return _renamed(name.removeprefix(_PREFIX), of_block, of_rest)


def _renamed(name: str, of_block: Mapping[str, str], of_rest: Mapping[str, str]) -> str:
    if name.startswith("blocks."):
        _, number, inner = name.split(".", 2) if name.count(".") > 1 else ("", "", "")
        return f"blocks.{number}.{_replaced(inner, of_block)}" if inner else name
    return _replaced(name, of_rest)


def _replaced(name: str, names: Mapping[str, str]) -> str:
    module, dot, parameter = name.rpartition(".")
    return names.get(name) or f"{names.get(module, module)}{dot}{parameter}"


def of_shapes(shapes: Mapping[str, tuple[int, ...]], uri: str) -> Published:
    """The sizes of weights, by our names, without a configuration; heads are 128 wide, as in every Wan.

    Raises:
        Mistake: the weights are of another network.
    """
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    try:
        width, channels, _, patch, _ = shapes["patch_embedding.weight"]
        ffn, text_dim = shapes["blocks.0.ffn.net.0.proj.weight"][0], shapes[_TEXT_IN][1]
        sizes = {"depth": depth, "width": width, "heads": width // _HEAD_DIM, "ffn": ffn, "patch": patch}
        return Published(ModelSettings(network="wan", **sizes), channels, text_dim)
    except (KeyError, IndexError, ValueError):
        raise Mistake(
            f"{uri} holds weights of another network than Wan's transformer, and no configuration is next "
            "to them; name a file of Wan 2.1 or 2.2, or a folder with its configuration"
        ) from None


def parse(config: Config, uri: str) -> Published:
    """The sizes in a configuration that was read from `uri`.

    Raises:
        Mistake: it is of another model, or of a kind of Wan that this network is not.
    """
    family = config.get("_class_name")
    if not isinstance(family, str) or family not in _FIXED:
        raise Mistake(
            f"{uri} describes a {shown(family)}; expected {DIFFUSERS} or {OFFICIAL}, the transformer of Wan "
            "2.1 or 2.2; name the folder of one"
        )
    for key, fixed in _FIXED[family].items():
        _expect(config, key, uri, [fixed])
    _expect(config, "model_type", uri, ["t2v", "ti2v"])
    patch = config.get("patch_size", _PATCH)
    sides = [1, patch[-1], patch[-1]] if isinstance(patch, list) and patch else _PATCH
    _expect(config, "patch_size", uri, [sides])
    depth, ffn = (_number(config, key, uri) for key in ("num_layers", "ffn_dim"))
    heads, channels = (_number(config, key, uri) for key in _KEYS[family])
    width = (
        _number(config, "dim", uri)
        if family == OFFICIAL
        else heads * _number(config, "attention_head_dim", uri)
    )
    _expect(config, "out_dim" if family == OFFICIAL else "out_channels", uri, [channels, None])
    text_dim = _number({"text_dim": _TEXT_DIM, **config}, "text_dim", uri)
    try:
        settings = ModelSettings(
            network="wan", depth=depth, width=width, heads=heads, ffn=ffn, patch=sides[-1]
        )
    except ValidationError as error:
        raise Mistake(f"{uri} has sizes that this network cannot have: {error.errors()[0]['msg']}") from None
    return Published(settings, channels, text_dim, dict(config))


def _number(config: Config, key: str, uri: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise Mistake(f"{uri} says {key} = {shown(value)}; expected a whole number, as in the published file")
    return value


def _expect(config: Config, key: str, uri: str, allowed: list[Any]) -> None:
    value = config.get(key, allowed[0])
    if value not in allowed:
        raise Mistake(
            f"{uri} says {key} = {shown(value)}, and this network has {shown(allowed[0])}; name the folder "
            "of a text-to-video model of Wan 2.1 or 2.2"
        )


def config_of(of: Published, family: str) -> Config:
    """The configuration to publish: the one that was read, if it is of this family, or a new one."""
    if of.config.get("_class_name") == family:
        return of.config
    model = of.settings
    common = {
        "_class_name": family,
        "num_layers": model.depth,
        "ffn_dim": model.hidden,
        "text_dim": of.text_dim,
        "patch_size": [1, model.patch, model.patch],
        **_FIXED[family],
    }
    if family == OFFICIAL:
        heads = {"dim": model.width, "num_heads": model.heads}
        return common | heads | {"in_dim": of.channels, "out_dim": of.channels, "model_type": "t2v"}
    heads = {"attention_head_dim": model.width // model.heads, "num_attention_heads": model.heads}
    return (
        common | heads | {"in_channels": of.channels, "out_channels": of.channels, "rope_max_seq_len": 1024}
    )
