"""Checks a model's files before they are used."""

import json

import torch

from vitascope import checksum, storage
from vitascope.encode.codecs import make_codec
from vitascope.encode.text import make_text_encoder
from vitascope.errors import Missing, Mistake
from vitascope.model.card import WEIGHTS, ModelCard
from vitascope.wording import short

_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
_REMEDY = "copy the folder again from where the model was trained, or set generate.model"
Shapes = dict[str, tuple[int, ...]]


def check_model(folder: str, card: ModelCard) -> None:
    """Compares weights, card, codec and text encoder, and verifies the checksum of the weights.

    Raises:
        Mistake: names the file, and what is damaged or does not match.
    """
    uri = storage.join(folder, WEIGHTS)
    if not storage.exists(uri):
        raise Missing(f"{folder} has a card and no {WEIGHTS}; {_REMEDY}")
    _check_card(folder, card)
    if wrong := _differences(_stored(uri), _of_card(card)):
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


def _stored(uri: str) -> Shapes:
    """The shapes in a safetensors file, from its header: its length in 8 bytes, then JSON."""
    size = storage.size_bytes(uri)
    with storage.open_file(uri) as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        text = file.read(n_bytes) if n_bytes <= min(size, _MOST_HEADER_BYTES) else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((about["data_offsets"][1] for about in header.values()), default=0)
        shapes = {name: tuple(about["shape"]) for name, about in header.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise Mistake(f"{uri} is no safetensors file, or its beginning is damaged; {_REMEDY}") from None
    if 8 + n_bytes + end != size:
        raise Mistake(f"{uri} has {size:,} bytes, and its header speaks of {8 + n_bytes + end:,}; {_REMEDY}")
    return shapes


def _of_card(card: ModelCard) -> Shapes:
    with torch.device("meta"):  # only shapes
        return {name: tuple(tensor.shape) for name, tensor in card.build().state_dict().items()}


def _differences(stored: Shapes, expected: Shapes) -> str:
    """The differences, the first of each kind; empty if none."""
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & stored.keys() if expected[name] != stored[name])
    differences = []
    if missing:
        differences.append(f"{len(missing)} weights are missing ({missing[0]})")
    if extra:
        differences.append(f"{len(extra)} are of no such model ({short(extra[0], 80)})")
    if other:
        name = other[0]
        differences.append(
            f"{len(other)} have another shape ({name}: {stored[name]}, expected {expected[name]})"
        )
    return ", ".join(differences)
