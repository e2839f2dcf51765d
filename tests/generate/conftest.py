"""Fixtures of the tests of generation: a tiny model, and requests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from synthetic import tiny_card
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.conditions import blank
from vitascope.generate.denoise.sampler import Work, begin
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard, save_model

PATCHING = Patching(STRIDES["dct"], patch=2)


@pytest.fixture(scope="session")
def card() -> ModelCard:
    return tiny_card()


@pytest.fixture(scope="session")
def model(card: ModelCard) -> DiT:
    """A model whose every weight is random: a fresh one's output layer is zero, and would hide mistakes."""
    torch.manual_seed(0)
    model = card.build().eval()
    for weights in model.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return model


@pytest.fixture(scope="session")
def model_folder(card: ModelCard, model: DiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as files."""
    folder = tmp_path_factory.mktemp("model")
    save_model(str(folder), model.state_dict(), card)
    return folder


@pytest.fixture
def request_of() -> Callable[..., Request]:
    """Makes a checked request: a small video, except for the given fields."""

    def make(**fields: Any) -> Request:
        adapters = {name: (f"/{name}",) for name in ("one", "two")}
        anywhere = GenerateSettings(media_from=("/",), adapters=adapters)
        document = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 9 / 8} | fields
        return parse(json.dumps(document), Limits(anywhere, patching=PATCHING, folder="/media"))

    return make


@pytest.fixture
def work_of(card: ModelCard, request_of: Callable[..., Request]) -> Callable[..., Work]:
    """Makes the work of a small video before its first step, except for the given fields."""

    def make(*, text: int = 3, device: str = "cpu", **fields: object) -> Work:
        request = request_of(**fields)
        generator = torch.Generator().manual_seed(text)
        states = torch.randn(text, card.text_dim, generator=generator), torch.zeros(0, card.text_dim)
        return begin(request, blank(request, card.patching, card.channels), states, card=card, device=device)

    return make
