"""Every network, declared once."""

from collections.abc import Iterable

import torch

from vitascope.model import lora
from vitascope.model.cost import Cost
from vitascope.model.dit import DiT
from vitascope.model.network import Network
from vitascope.model.settings import ModelSettings
from vitascope.model.wan import Wan
from vitascope.precision import fastest

NETWORKS: dict[str, type[Network]] = {"dit": DiT, "wan": Wan}
"""By their name in `model.network`."""


def build(settings: ModelSettings, channels: int, text_dim: int) -> Network:
    """A network with fresh weights, and adapters if the settings have them."""
    network = NETWORKS[settings.network](settings, channels, text_dim)
    if settings.lora:
        lora.attach(network, settings.lora)
    return network


def filled(
    settings: ModelSettings,
    dims: tuple[int, int],
    tensors: Iterable[tuple[str, torch.Tensor]],
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
) -> Network:
    """A network with the given weights, in evaluation mode, in `dtype` except what it keeps in float32.

    If `tensors` reads each weight when it is asked for, memory holds the weights once.

    Args:
        dims: channels of a latent and dimension of text states.
        dtype: by default, float32 on a CPU and bfloat16 on a GPU that has it.
    """
    with torch.device("meta"):
        network = build(settings, *dims)
    if dtype is None:
        dtype = fastest(device, torch.bfloat16) if device.type == "cuda" else torch.float32
    weights = {
        name: tensor.to(device, torch.float32 if network.kept_in_float32 & set(name.split(".")) else dtype)
        for name, tensor in tensors
    }
    network.load_state_dict(weights, assign=True)
    return network.eval()


def shapes_of(settings: ModelSettings, channels: int, text_dim: int) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by name, in the network's order, including adapters."""
    with torch.device("meta"):  # only shapes
        weights = build(settings, channels, text_dim).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def trained_shapes(settings: ModelSettings, channels: int, text_dim: int) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that training changes: of all, or of the adapters alone."""
    shapes = shapes_of(settings, channels, text_dim)
    return {name: shape for name, shape in shapes.items() if not settings.lora or lora.is_adapter(name)}


def cost_of(settings: ModelSettings, channels: int, text_dim: int) -> Cost:
    """The cost of a network's forward pass."""
    return NETWORKS[settings.network].cost(settings, channels, text_dim)
