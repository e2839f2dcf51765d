"""A trained model's weights and settings, as files.

A model folder holds `model.safetensors` (float32 EMA weights by parameter name) and `model.json` (the card),
each with its checksum. Only these are ever loaded: a file of another format could run code.
"""

from collections.abc import Mapping

import safetensors.torch
import torch
from pydantic import ValidationError

from vitascope import checksum, storage
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.strides import strides_of
from vitascope.errors import Missing, Mistake
from vitascope.model.flow import Shift
from vitascope.model.network import Network
from vitascope.model.networks import NETWORKS, build
from vitascope.model.settings import ModelSettings
from vitascope.precision import Precision
from vitascope.section import Section
from vitascope.train.settings import ALL_LEVELS, Conditioning, NoiseRange

WEIGHTS, CARD = "model.safetensors", "model.json"
AGAIN = "copy the folder again, or set generate.model"


class ModelCard(Section):
    """Everything needed to rebuild a model and to make latents and text states for it.

    timestep_shift, conditioning_frames, noise_range: those of its training; by default as in releases that
    did not record them. expert: the noise levels that the network is for; all unless it is one of two
    experts. precision: that of its training; None if not recorded. start: the identity of the weights it
    began with. codec, text: the fingerprints of codec and text encoder; None if not recorded.
    """

    model: ModelSettings
    encode: EncodeSettings
    channels: int
    text_dim: int
    fingerprint: str
    timestep_shift: float = 1.0
    step: int
    precision: Precision | None = None
    start: str | None = None
    codec: str | None = None
    text: str | None = None
    conditioning_frames: Conditioning = "all"
    noise_range: NoiseRange = ALL_LEVELS
    expert: NoiseRange = ALL_LEVELS

    @property
    def patching(self) -> Patching:
        """How videos become the model's patches."""
        return Patching(strides_of(self.encode), self.model.patch)

    @property
    def shift(self) -> Shift:
        """The shift of timesteps in training and sampling."""
        return Shift(self.timestep_shift, NETWORKS[self.model.network].objective.shift_grows)

    def build(self) -> Network:
        """A model of this shape with fresh weights."""
        return build(self.model, self.channels, self.text_dim)


def save_model(folder: str, weights: Mapping[str, torch.Tensor], card: ModelCard) -> None:
    """Commits weights, then the card: a folder with a card is complete.

    Raises:
        Mistake: a weight is not finite; nothing is written.
    """
    wrong = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if wrong:
        raise Mistake(
            f"{len(wrong)} of {len(weights)} weights of the model hold values that are not finite, the first "
            f"is {wrong[0]}; it is not published. Train again with a lower train.lr, from an earlier "
            "checkpoint or in another run.folder"
        )
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
        Missing: there is no card; says what to do.
        Mistake: the card is damaged, or of another release.
    """
    location = storage.join(folder, CARD)
    if not storage.exists(location):
        raise Missing(f"no model at {folder}: expected {location}; train one first, or set generate.model")
    try:
        return ModelCard.model_validate_json(checksum.read(location))
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the file"
        raise Mistake(
            f"{location} is no card of a model of this release: {where}: {wrong['msg']}; "
            "train the model again, or set generate.model"
        ) from None
