"""A model folder is enough to use a model."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Mistake
from vitascope.feed.packs import Segment, collate
from vitascope.model.formats.card import ModelCard, save_model
from vitascope.model.formats.load import load_model
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a byte", "damaged or was changed"),
        ("a pickle", "is not a safetensors file"),
        ("no checksum", "has no checksum; if you trust"),
    ],
)
def test_weights_that_were_changed_are_not_loaded(change: str, message: str, tmp_path: Path) -> None:
    save_model(str(tmp_path), CARD.build().state_dict(), CARD)
    weights = tmp_path / "model.safetensors"
    if change == "a byte":
        content = bytearray(weights.read_bytes())
        content[-3] ^= 1
        weights.write_bytes(content)
    elif change == "a pickle":
        torch.save(CARD.build().state_dict(), weights)
    else:
        (tmp_path / "model.safetensors.sha256").unlink()
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path))


def test_a_pickle_is_not_loaded_though_its_checksum_is_right(tmp_path: Path) -> None:
    save_model(str(tmp_path), CARD.build().state_dict(), CARD)
    weights = tmp_path / "model.safetensors"
    torch.save(CARD.build().state_dict(), weights)
    sums = ["sha256sum", "model.safetensors"]
    (tmp_path / "model.safetensors.sha256").write_bytes(subprocess.check_output(sums, cwd=tmp_path))
    with pytest.raises(Mistake, match="is not a safetensors file"):
        load_model(str(tmp_path))


def test_no_model_says_where_it_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected .*model\.json; train one first"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path, value: float) -> None:
    model = CARD.build()
    with torch.no_grad():
        model.blocks[1].qkv.weight[3, 4] = value
    with pytest.raises(Mistake, match=r"1 of \d+ weights .* the first is blocks\.1\.qkv\.weight"):
        save_model(str(tmp_path / "model"), model.state_dict(), CARD)
    assert not (tmp_path / "model").exists()


MEASURED = """
import sys
from vitascope.model.formats.load import load_model
def most(key):
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1])
load_model(sys.argv[1])  # imports and caches
before = most("VmRSS:")
model, _ = load_model(sys.argv[2])
print(most("VmHWM:") - before, sum(p.nbytes for p in model.parameters()) // 1024)
"""


def test_loading_takes_the_memory_of_the_weights_once(tmp_path: Path) -> None:
    large = CARD.model_copy(update={"model": ModelSettings(depth=4, width=768, heads=6)})
    folders = [str(tmp_path / name) for name in ("small", "large")]
    for folder, card in zip(folders, (CARD, large), strict=True):
        save_model(folder, card.build().state_dict(), card)
    measured = subprocess.check_output([sys.executable, "-c", MEASURED, *folders], text=True)
    taken, weights = map(int, measured.split())
    assert weights > 100_000  # KiB
    assert 0.9 * weights < taken < 1.3 * weights
