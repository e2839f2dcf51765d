"""Loads a trained model."""

from collections.abc import Iterable

import torch
from torch import Tensor

from vitascope import storage
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.card import AGAIN, WEIGHTS, ModelCard, load_card
from vitascope.model.formats.start import Start, open_start
from vitascope.model.formats.stored import read_sealed
from vitascope.model.lora import Merged, pairs_of
from vitascope.model.network import Network
from vitascope.model.networks import filled


def load_model(
    folder: str, device: torch.device | str = "cpu", card: ModelCard | None = None
) -> tuple[Network, ModelCard]:
    """The model of a folder in evaluation mode: float32 on a CPU, bfloat16 on a GPU that has it.

    Adapters are merged with the weights that they were trained for. `card` replaces the folder's own, if
    parts have moved.

    Raises:
        Missing, Mistake: those weights are gone, or have changed.
        ValueError: the weights are damaged.
    """
    card = card or load_card(folder)
    tensors: Iterable[tuple[str, Tensor]] = read_sealed(storage.join(folder, WEIGHTS), AGAIN)
    if card.model.lora:
        tensors = Merged(base_of(card).weights, pairs_of(dict(tensors), card.model.lora)).items()
    whole = card.model.model_copy(update={"lora": None})
    return filled(whole, (card.channels, card.text_dim), tensors, torch.device(device)), card


def base_of(card: ModelCard) -> Start:
    """The weights that a model's adapters were trained for.

    Raises:
        Missing, Mistake: they are gone, or have changed.
    """
    location = card.model.start_from
    assert location  # the settings require it of adapters
    try:
        start = open_start(location)
    except Missing as error:
        raise Missing(f"the weights that the adapters were trained for are gone: {error}") from None
    if start.identity != card.start:
        raise Mistake(
            f"the weights in {location} are not those that the adapters were trained for; put those back, or "
            "train the adapters again"
        )
    return start
