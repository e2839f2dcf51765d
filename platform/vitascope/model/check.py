"""Checks a model's files before they are used."""

from vitascope import checksum, storage
from vitascope.encode.codecs import make_codec
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Missing, Mistake
from vitascope.model.card import WEIGHTS, ModelCard
from vitascope.model.networks import trained_shapes
from vitascope.weights import differences, stored_shapes

_REMEDY = "copy the folder again from where the model was trained, or set generate.model"


def check_model(folder: str, card: ModelCard) -> None:
    """Compares weights, card, codec and text encoder, and verifies the checksum of the weights.

    Raises:
        Mistake: names the file, and what is damaged or does not match.
    """
    uri = storage.join(folder, WEIGHTS)
    if not storage.exists(uri):
        raise Missing(f"{folder} has a card and no {WEIGHTS}; {_REMEDY}")
    _check_card(folder, card)
    expected = trained_shapes(card.model, card.channels, card.text_dim)
    if wrong := differences(stored_shapes(uri, _REMEDY), expected):
        raise Mistake(f"{uri} does not fit the model.json next to it: {wrong}; {_REMEDY}")
    checksum.check(uri)


def _check_card(folder: str, card: ModelCard) -> None:
    encode = card.encode
    made = {
        "channels": (card.channels, make_codec(encode).channels, f"codec {encode.codec}"),
        "text_dim": (card.text_dim, make_text_encoder(encode).dim, f"text encoder {encode.text_encoder}"),
    }
    for name, (recorded, gives, what) in made.items():
        if recorded != gives:
            raise Mistake(
                f"the card in {folder} says {name} = {recorded}, the {what} gives {gives}; {_REMEDY}"
            )
