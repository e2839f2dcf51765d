"""Checks a model's files before they are used."""

from collections.abc import Callable

from vitascope import checksum, storage
from vitascope.encode import published
from vitascope.encode.codecs import Codec, make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import TextEncoder, make_text_encoder
from vitascope.errors import Missing, Mistake
from vitascope.model.formats.card import AGAIN, WEIGHTS, ModelCard
from vitascope.model.formats.load import base_of
from vitascope.model.networks import trained_shapes
from vitascope.storage import join
from vitascope.weights import differences, read_header, stored_shapes


def check_model(folder: str, card: ModelCard) -> None:
    """Compares weights, card, codec and text encoder, and verifies the checksum of the weights.

    Raises:
        Mistake: names the file, and what is damaged or does not match.
    """
    uri = join(folder, WEIGHTS)
    if not storage.exists(uri):
        raise Missing(f"{folder} has a card and no {WEIGHTS}; {AGAIN}")
    check_parts(folder, card)
    expected = trained_shapes(card.model, card.channels, card.text_dim)
    if wrong := differences(stored_shapes(uri, AGAIN), expected):
        raise Mistake(f"{uri} does not fit the model.json next to it: {wrong}; {AGAIN}")
    checksum.check(uri)


def check_parts(folder: str, card: ModelCard) -> None:
    """Compares the network in `folder` with codec and text encoder, and reads the headers of their weights.

    Raises:
        Mistake: one is damaged, or does not match.
    """
    encode = card.encode
    made = {
        "channels": (card.channels, make_codec(encode).channels, f"codec {encode.codec}"),
        "text_dim": (card.text_dim, make_text_encoder(encode).dim, f"text encoder {encode.text_encoder}"),
    }
    for name, (takes, gives, what) in made.items():
        if takes != gives:
            raise Mistake(
                f"the network in {folder} takes {name} = {takes}, the {what} gives {gives}; {AGAIN}"
            )
    if encode.text_folder:
        part = published.part(encode.text_folder, "text_encoder")
        for uri in published.weight_files(part, "encode.text_folder"):
            read_header(uri, AGAIN)


def rebased(folder: str, card: ModelCard, start_from: str | None) -> ModelCard:
    """The card of a model in `folder` of adapters alone, with the weights that they adapt.

    They are at the location that training read, or, if they have moved, at the one in the settings.

    Raises:
        Missing, Mistake: they are gone, and the settings name none, or those have changed.
    """
    if not card.model.lora:
        return card
    own = card.model.start_from
    if own and not storage.exists(own):
        if not start_from or not storage.exists(start_from):
            raise Missing(
                f"{own} is gone, which the adapters in {folder} were trained for; set model.start_from to "
                "its new location"
            )
        moved = card.model.model_copy(update={"start_from": storage.absolute(start_from)})
        card = card.model_copy(update={"model": moved})
    base_of(card)
    return card


def relocated(folder: str, card: ModelCard, encode: EncodeSettings) -> ModelCard:
    """The card of the model in `folder`, with parts that have moved read from the folders in the settings.

    Raises:
        Missing, Mistake: a part is gone, and the settings name none, or one that is not equal.
    """
    parts: dict[str, tuple[str, Callable[[EncodeSettings], Codec | TextEncoder]]]
    parts = {"codec": ("codec_folder", make_codec), "text": ("text_folder", make_text_encoder)}
    for part, (key, make) in parts.items():
        own, other = getattr(card.encode, key), getattr(encode, key)
        if own is None or storage.exists(own):
            continue
        gone = f"{own} is gone, which the model in {folder} needs"
        if other is None:
            raise Missing(f"{gone}; set encode.{key} to its new location")
        moved = card.encode.model_copy(update={key: storage.absolute(other)})
        if make(moved).fingerprint != getattr(card, part):
            why = "holds other content" if getattr(card, part) else "cannot be compared: the card has no hash"
            raise Mistake(f"{gone}, and {other}, set as encode.{key}, {why}; set it to an unchanged copy")
        card = card.model_copy(update={"encode": moved})
    return card
