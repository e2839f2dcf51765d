"""The weights that a run starts from."""

from dataclasses import dataclass

from vitascope import checksum, storage
from vitascope.encode.published import content_hash
from vitascope.errors import Mistake
from vitascope.model.formats.card import CARD, WEIGHTS, ModelCard, load_card
from vitascope.model.formats.stored import Weights
from vitascope.model.formats.wan_names import Published, of_shapes, our_name
from vitascope.model.formats.weights import open_weights, read_config
from vitascope.model.networks import trained_shapes
from vitascope.model.settings import ModelSettings
from vitascope.records import stable_id
from vitascope.weights import differences, read_header, stored_shapes

_AGAIN = "copy it again, or correct model.start_from"


@dataclass(frozen=True)
class Start:
    """Weights by our names, and the sizes of their network."""

    of: Published
    weights: Weights

    @property
    def identity(self) -> str:
        """A hash of the weights' files, as `published.content_hash` gives it."""
        files = sorted({stored.uri for stored in self.weights.tensors.values()})
        return stable_id("start", *map(content_hash, files))


def open_start(location: str) -> Start:
    """The weights at `model.start_from`; only configuration and headers are read so far.

    Raises:
        Missing, Mistake: there are none, or they are damaged, of another family or of an unsafe format.
    """
    if storage.exists(storage.join(location, CARD)):
        card = load_card(location)
        if card.model.lora:
            raise Mistake(
                f"{location} holds adapters alone; write them into the weights that they adapt with "
                "`vitascope export --merge`, and set model.start_from to the result"
            )
        weights = Weights(read_header(storage.join(location, WEIGHTS), _AGAIN))
        expected = trained_shapes(card.model, card.channels, card.text_dim)
        if wrong := differences(weights.shapes, expected):
            raise Mistake(f"the weights in {location} do not fit the card next to them: {wrong}; {_AGAIN}")
        return Start(Published(card.model, card.channels, card.text_dim), weights)
    of = _of_file(location) if location.endswith(".safetensors") else read_config(location)
    return Start(of, open_weights(location, of))


def _of_file(location: str) -> Published:
    """The sizes of weights in a file, as ComfyUI reads them, which has no configuration."""
    shapes = stored_shapes(location, _AGAIN)
    return of_shapes({our_name(name): shape for name, shape in shapes.items()}, location)


def sized(settings: ModelSettings) -> ModelSettings:
    """`settings` with the sizes of the network, which may follow from the weights it starts from."""
    return resolved(settings, open_start(settings.start_from).of) if settings.start_from else settings


def resolved(settings: ModelSettings, of: Published) -> ModelSettings:
    """`settings` with the sizes of the weights.

    Raises:
        Mistake: a size is set to another value; the patch, which latents are made for, is always compared.
    """
    sizes = of.settings.model_dump(exclude={"start_from", "lora"})
    default = {key: field.default for key, field in ModelSettings.model_fields.items()} | {"patch": None}
    values = settings.model_dump(include=set(sizes))
    given = {key: value for key, value in values.items() if value != default[key]}
    if wrong := [f"model.{key} = {value}" for key, value in given.items() if sizes[key] != value]:
        have = ", ".join(f"{key} = {value}" for key, value in sizes.items() if value is not None)
        raise Mistake(
            f"the settings say {', '.join(wrong)}, and the weights in {settings.start_from} have {have}; "
            "leave sizes out that follow from the weights, or correct model.start_from"
        )
    return of.settings.model_copy(update={"start_from": settings.start_from, "lora": settings.lora})


def started_from(card: ModelCard, location: str) -> ModelCard:
    """The card of a model that starts from weights, with their sizes and identity.

    Raises:
        Mistake: the network takes other latents or text states than the card's, or lacks layers to adapt.
    """
    start = open_start(location)
    if storage.exists(storage.join(location, CARD)):
        checksum.check(storage.join(location, WEIGHTS))
    for name, got in {"channels": start.of.channels, "text_dim": start.of.text_dim}.items():
        if got != getattr(card, name):
            made = {
                "channels": f"codec {card.encode.codec}",
                "text_dim": f"text encoder {card.encode.text_encoder}",
            }
            raise Mistake(
                f"the weights in {location} take {name} = {got}, and the {made[name]} of the latents gives "
                f"{getattr(card, name)}; encode with what these weights were trained with, or correct "
                "model.start_from"
            )
    model = resolved(card.model, start.of)
    trained_shapes(model, card.channels, card.text_dim)  # refuses adapters of layers that it has not
    return card.model_copy(update={"model": model, "start": start.identity})
