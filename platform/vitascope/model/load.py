"""Loads a trained model."""

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from vitascope import checksum, storage
from vitascope.errors import Mistake
from vitascope.model.card import WEIGHTS, ModelCard, load_card
from vitascope.model.lora import Merged, pairs_of
from vitascope.model.network import Network
from vitascope.model.networks import build
from vitascope.model.start import Start, open_start
from vitascope.precision import fastest


def load_model(folder: str, device: torch.device | str = "cpu") -> tuple[Network, ModelCard]:
    """The model of a folder in evaluation mode: float32 on a CPU, bfloat16 on a GPU that has it.

    Adapters are merged with the weights that they were trained for.

    Raises:
        Missing, Mistake: those weights are gone, or have changed.
        ValueError: the weights are damaged.
    """
    card = load_card(folder)
    weights: Mapping[str, Tensor]
    weights = safetensors.torch.load(checksum.read(storage.join(folder, WEIGHTS)))
    if card.model.lora:
        weights = Merged(base_of(card).weights, pairs_of(weights, card.model.lora))
    model = build(card.model.model_copy(update={"lora": None}), card.channels, card.text_dim)
    model.load_state_dict(dict(weights))
    on_gpu = torch.device(device).type == "cuda"
    dtype = fastest(torch.device(device), torch.bfloat16) if on_gpu else torch.float32
    return model.to(device=device, dtype=dtype).eval(), card


def base_of(card: ModelCard) -> Start:
    """The weights that a model's adapters were trained for.

    Raises:
        Missing, Mistake: they are gone, or have changed.
    """
    location = card.model.start_from
    assert location  # the settings require it of adapters
    start = open_start(location)
    if start.identity != card.start:
        raise Mistake(
            f"the weights in {location} are not those that the adapters were trained for; put those back, or "
            "train the adapters again"
        )
    return start
