"""A model folder is all that is needed to use a model."""

from pathlib import Path

import pytest
import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.feed.packs import Segment, collate
from vitascope.model.card import ModelCard, load_model, save_model
from vitascope.model.settings import ModelSettings

CARD = ModelCard(
    model=ModelSettings(depth=2, width=32, heads=2),
    encode=EncodeSettings(),
    channels=3,
    text_dim=8,
    fingerprint="abc",
    timestep_shift=2.0,
    step=11,
)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_saved_model_computes_the_same(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = str(tmp_path) if where == "local" else request.getfixturevalue("s3") + "/model"
    model = CARD.build().eval()
    torch.nn.init.normal_(model.out.weight)
    save_model(folder, model.state_dict(), CARD)
    loaded, card = load_model(folder)
    pack = collate([Segment(torch.randn(8, 12), (2, 2, 2), torch.rand(2), torch.randn(3, 8))])
    assert card == CARD
    assert not loaded.training
    assert torch.equal(loaded(pack), model(pack))


def test_no_model_says_where_it_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected .*model\.json; train one first"):
        load_model(str(tmp_path))
