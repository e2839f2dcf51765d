"""Held-out losses are measured on the held-out samples alone, the same every time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from vitascope import config, storage
from vitascope.config import Settings
from vitascope.encode.fingerprint import latents_folder
from vitascope.encode.samples import Sample
from vitascope.errors import Mistake
from vitascope.evaluate import stage
from vitascope.model.formats.card import ModelCard, save_model


def sample(number: int) -> Sample:
    """What a shard would give: an image, or two latent frames."""
    shape = (1 if number == 0 else 2, 4, 4, 3)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    return Sample(number, latent, torch.zeros(0, 16).bfloat16(), "")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A fresh model and three samples, of which two, of different sizes, are held out."""
    overrides = [f"run.folder={tmp_path}", "model.depth=1", "model.width=32", "model.heads=2"]
    settings = config.load(None, [*overrides, "evaluate.timesteps=[0.2, 0.8]"])
    card = ModelCard(
        model=settings.model,
        encode=settings.encode,
        channels=3,
        text_dim=16,
        fingerprint=latents_folder(settings).rpartition("/")[2],
        timestep_shift=1.0,
        step=1,
    )
    torch.manual_seed(0)
    save_model(settings.path("model"), card.build().state_dict(), card)
    rows = [
        {"sample_id": i, "shard": 0, "row": i, "split": split, "n_frames": n, "height": 32, "width": 32}
        for i, (split, n) in enumerate([("val", 1), ("train", 5), ("val", 5)])
    ]
    monkeypatch.setattr(stage, "read_index", lambda _: pa.Table.from_pylist(rows))
    monkeypatch.setattr(stage, "read_samples", lambda _, places: [sample(row) for _, row in places])
    return settings


def test_a_loss_for_each_held_out_size_at_each_timestep(settings: Settings) -> None:
    summary = stage.run(settings)
    assert summary["samples"] == 2
    document = storage.read_json(settings.path("evaluate", "losses.json"))
    assert document["timesteps"] == [0.2, 0.8]
    assert [(row["size"], row["samples"]) for row in document["by_size"]] == [("1x32x32", 1), ("5x32x32", 1)]
    np.testing.assert_allclose(
        np.mean([row["loss"] for row in document["by_size"]], axis=0), document["loss"]
    )
    # A fresh model's clean patch is 0 and these latents are 1: the velocity is off by 1 / timestep.
    assert document["loss"] == pytest.approx([1 / 0.2**2, 1 / 0.8**2], rel=0.01)


def test_the_same_model_gives_the_same_losses(settings: Settings) -> None:
    assert stage.run(settings)["loss"] == stage.run(settings)["loss"]


def test_a_model_of_other_latents_is_refused(settings: Settings) -> None:
    other = settings.model_copy(update={"encode": settings.encode.model_copy(update={"dct_channels": 32})})
    with pytest.raises(ValueError, match="the model was trained on latents"):
        stage.run(other)


def test_a_published_pipeline_is_no_model_of_the_run(settings: Settings, tmp_path: Path) -> None:
    storage.put_json(str(tmp_path / "wan" / "model_index.json"), {"_class_name": "WanPipeline"})
    generate = settings.generate.model_copy(update={"model": str(tmp_path / "wan")})
    with pytest.raises(Mistake, match="is a published pipeline, not a model"):
        stage.run(settings.model_copy(update={"generate": generate}))
