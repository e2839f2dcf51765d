"""A damaged model folder is refused with the reason, before anything is started."""

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from synthetic import tiny_card
from vitascope import checksum
from vitascope.errors import Mistake
from vitascope.model.formats.card import load_card, save_model
from vitascope.model.formats.check import check_model
from vitascope.model.formats.load import load_model

CARD = tiny_card()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(str(tmp_path), CARD.build().state_dict(), CARD)
    return tmp_path


def seal(path: Path) -> None:
    checksum.seal(str(path))


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])


def empty(weights: Path) -> None:
    weights.write_bytes(b"")


def flip(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-7] ^= 4
    weights.write_bytes(content)


def flip_header(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[9] ^= 255
    weights.write_bytes(content)


def huge_header(weights: Path) -> None:
    weights.write_bytes(struct.pack("<Q", 2**63) + b"{}")


def odd_header(weights: Path) -> None:
    text = json.dumps({"a": {"data_offsets": "no", "shape": 3}}).encode()
    weights.write_bytes(struct.pack("<Q", len(text)) + text)


def pickled(weights: Path) -> None:
    torch.save(CARD.build().state_dict(), weights)


def other(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def write(weights: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in CARD.build().state_dict().items()}
        change(state)
        save_file(state, weights)

    return write


DAMAGE = {
    "truncated": (truncate, "and its header describes"),
    "empty": (empty, "is not a safetensors file"),
    "flipped bytes": (flip, "is damaged or was changed: its SHA-256"),
    "flipped header": (flip_header, "is not a safetensors file"),
    "huge header": (huge_header, "is not a safetensors file"),
    "odd header": (odd_header, "is not a safetensors file"),
    "a pickle": (pickled, "is not a safetensors file"),
    "missing keys": (other(lambda s: s.pop("out.weight")), "1 weights are missing (out.weight)"),
    "other keys": (other(lambda s: s.update(x=torch.zeros(1))), "1 do not belong to this model (x)"),
    "other shapes": (
        other(lambda s: s.update({"no_text": torch.zeros(1, 3)})),
        "no_text: (1, 3), expected (1, 64)",
    ),
}


def test_a_whole_one_is_fine(folder: Path) -> None:
    check_model(str(folder), load_card(str(folder)))
    assert not load_model(str(folder))[0].training


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("sealed", [False, True])
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], said: str, sealed: bool) -> None:
    weights = folder / "model.safetensors"
    damage(weights)
    if sealed and damage is not flip:
        seal(weights)
    with pytest.raises(Mistake) as refused:
        check_model(str(folder), load_card(str(folder)))
    assert said in str(refused.value)
    assert str(weights) in str(refused.value)
    assert len(str(refused.value)) < 600


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(Mistake, match="has a card and no model"):
        check_model(str(folder), load_card(str(folder)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"channels": 13}, "channels = 13, the codec dct gives 12"),
        ({"text_dim": 32}, "text_dim = 32, the text encoder minilm gives 384"),
        ({"model": {"depth": 3, "width": 64, "heads": 2, "patch": 2}}, "weights are missing (blocks.2."),
    ],
)
def test_a_card_that_disagrees_is_named(folder: Path, fields: dict, said: str) -> None:
    rewrite(folder, CARD.model_dump(mode="json") | fields)
    with pytest.raises(Mistake) as refused:
        check_model(str(folder), load_card(str(folder)))
    assert said in str(refused.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"channels": "many"}'])
def test_a_card_of_another_kind_is_a_sentence(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content)
    seal(folder / "model.json")
    with pytest.raises(Mistake, match="is no card of a model of this release"):
        load_card(str(folder))


def rewrite(folder: Path, document: dict) -> None:
    (folder / "model.json").write_text(json.dumps(document))
    sums = subprocess.check_output(["sha256sum", "model.json"], cwd=folder)
    (folder / "model.json.sha256").write_bytes(sums)
