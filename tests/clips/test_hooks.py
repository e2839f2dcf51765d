"""Scores by functions of the user's own."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from vitascope.clips import hooks
from vitascope.clips.filters import HookFilter
from vitascope.clips.hooks import check, looks, score
from vitascope.clips.settings import ClipsSettings

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)


def brightness(frames: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return frames.mean(axis=(1, 2, 3)) * scale


def one_for_all(frames: np.ndarray) -> float:
    return float(frames.mean())


def hook(function: str, **options: Any) -> HookFilter:
    return HookFilter(use="score", function=function, options=options)


def test_a_function_scores_every_frame() -> None:
    scores = score(FRAMES, hook(f"{__name__}:brightness", scale=2.0))
    assert scores.dtype == np.float32
    assert scores == pytest.approx(2 * FRAMES.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "cannot load the function no_such_module:f"),
        ("numpy:no_such_function", "no_such_function"),
        ("numpy:pi", "numpy:pi is a float, expected a function"),
        (f"{__name__}:one_for_all", r"gave \(\), expected a score for each of 5 frames"),
    ],
)
def test_what_is_no_hook_is_said(function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(FRAMES, hook(function))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with random weights and 16 numbers an embedding."""
    folder = tmp_path_factory.mktemp("clip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=tower | {"vocab_size": 50},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def test_aesthetic_is_linear_in_the_embedding(clip: Path, tmp_path: Path) -> None:
    name = "vitascope.clips.hooks:aesthetic"
    weight = torch.randn(1, 16)
    heads = {
        "once": {"weight": weight, "bias": torch.tensor([5.0])},
        "twice": {"weight": 2 * weight, "bias": torch.tensor([5.0])},
        "stack": {
            "layers.0.weight": 2 * torch.eye(16),
            "layers.2.weight": weight,
            "layers.2.bias": torch.ones(1),
        },
    }
    by_head = {}
    for head, tensors in heads.items():
        save_file(tensors, tmp_path / f"{head}.safetensors")
        by_head[head] = score(FRAMES, hook(name, model=str(clip), head=str(tmp_path / f"{head}.safetensors")))
    assert by_head["once"].shape == (5,)
    assert len(set(by_head["once"].tolist())) == 5
    assert by_head["twice"] - 5 == pytest.approx(2 * (by_head["once"] - 5), abs=1e-4)
    assert by_head["stack"] - 1 == pytest.approx(2 * (by_head["once"] - 5), abs=1e-4)
    each = [
        score(FRAMES[i : i + 1], hook(name, model=str(clip), head=str(tmp_path / "once.safetensors")))[0]
        for i in range(5)
    ]
    assert by_head["once"] == pytest.approx(each, abs=1e-4)


def test_a_model_stored_in_half_precision_is_computed_in_float32(clip: Path, tmp_path: Path) -> None:
    CLIPModel.from_pretrained(clip, dtype=torch.bfloat16).save_pretrained(tmp_path)
    for file in clip.glob("*processor*"):
        shutil.copy(file, tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3), np.uint8)
    half, full = (hooks._embedded(frames, str(folder)) for folder in (tmp_path, clip))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.02)


def test_a_model_is_looked_for_on_the_disk_alone(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for path in clip.iterdir():
        (tmp_path / "broken" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    for model, message in (
        (str(tmp_path / "none"), "is no folder; give a local folder with what save_pretrained of an image"),
        ("s3://bucket/clip", "the model s3://bucket/clip is remote; copy it to a disk"),
        (str(tmp_path), r"does not load \(ValueError: .*\); give a local folder"),
        (str(tmp_path / "broken"), r"does not load \(SafetensorError: .*\); give a local folder"),
    ):
        with pytest.raises(ValueError, match=message):
            looks(FRAMES, model=model)


def test_models_are_looked_at_before_there_is_work(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At what is small of them."""
    here = tmp_path / "clip"
    here.mkdir()
    for name in ("config.json", "preprocessor_config.json"):
        (here / name).write_bytes((clip / name).read_bytes())
    (tmp_path / "head.safetensors").touch()

    def checked(model: Path, head: str) -> None:
        options = {"model": str(model), "head": str(tmp_path / head)}
        rule = {"use": "score", "function": "vitascope.clips.hooks:aesthetic", "options": options}
        check(ClipsSettings.model_validate({"filters": {"aesthetic": rule}}))

    checked(here, "head.safetensors")
    check(ClipsSettings(duplicates_model=str(here)))
    with pytest.raises(ValueError, match=r"aesthetic\.options\.head: .*none is no local file"):
        checked(here, "none")
    with pytest.raises(ValueError, match=r"aesthetic\.options\.model: the model .*none is no folder"):
        checked(tmp_path / "none", "head.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"aesthetic\.options\.model is relative; give the whole path"):
        checked(Path("clip"), "head.safetensors")
    (here / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"clips\.duplicates_model: the model .*clip does not load \(Attrib"):
        check(ClipsSettings(duplicates_model=str(here)))
    (here / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"clips\.duplicates_model: the model .*clip does not load"):
        check(ClipsSettings(duplicates_model=str(here)))
    check(ClipsSettings(duplicates_model=str(here), duplicates="exact"))  # is not called


def test_a_head_that_gives_no_single_score_is_refused(clip: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 16)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="of which the last gives one score"):
        score(
            FRAMES,
            hook(
                "vitascope.clips.hooks:aesthetic",
                model=str(clip),
                head=str(tmp_path / "head.safetensors"),
            ),
        )
