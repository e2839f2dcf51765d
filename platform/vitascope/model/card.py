"""A trained model's weights and settings, as files.

A model folder holds `model.safetensors` (float32 EMA weights by parameter name) and `model.json` (the card),
each with its checksum. Nothing else is ever loaded: a file of another format could run code.
"""

from collections.abc import Mapping

import safetensors.torch
import torch

from vitascope import checksum, storage
from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Missing
from vitascope.model.dit import DiT
from vitascope.model.settings import ModelSettings
from vitascope.section import Section

WEIGHTS, CARD = "model.safetensors", "model.json"


class ModelCard(Section):
    """All that is needed to rebuild a model and to speak to it in its own latents."""

    model: ModelSettings
    encode: EncodeSettings
    channels: int
    text_dim: int
    fingerprint: str
    timestep_shift: float
    step: int

    def build(self) -> DiT:
        """A model of this shape with fresh weights."""
        return DiT(self.model, self.channels, self.text_dim)


def save_model(folder: str, weights: Mapping[str, torch.Tensor], card: ModelCard) -> None:
    """Commits weights, then the card: a folder with a card is whole."""
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in weights.items()}
    weights_uri = storage.join(folder, WEIGHTS)
    storage.put(weights_uri, safetensors.torch.save(tensors))
    checksum.seal(weights_uri)
    card_uri = storage.join(folder, CARD)
    storage.put(card_uri, card.model_dump_json(indent=2).encode())
    checksum.seal(card_uri)


def load_card(folder: str) -> ModelCard:
    """The card of a model folder.

    Raises:
        FileNotFoundError: saying what to do, where there is none.
        ValueError: where it is not the one that was written.
    """
    location = storage.join(folder, CARD)
    if not storage.exists(location):
        raise Missing(f"no model at {folder}: expected {location}; train one first, or set generate.model")
    return ModelCard.model_validate_json(checksum.read(location))


def load_model(folder: str, device: torch.device | str = "cpu") -> tuple[DiT, ModelCard]:
    """The model of a folder in evaluation mode: float32 on a CPU, bfloat16 on a GPU.

    ValueError where the weights are not the ones that were written.
    """
    card = load_card(folder)
    model = card.build()
    model.load_state_dict(safetensors.torch.load(checksum.read(storage.join(folder, WEIGHTS))))
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    return model.to(device=device, dtype=dtype).eval(), card
