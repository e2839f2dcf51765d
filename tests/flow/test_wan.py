"""A published pipeline goes in, is trained on files of several sizes, and diffusers runs what comes out."""

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flow import sources
from flow.wan_folders import write_pipeline
from vitascope import cli, config, storage
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.text import make_text_encoder
from vitascope.feed.patches import unpatchify
from vitascope.generate.opened import opened
from vitascope.model.card import load_card, load_model, save_model
from vitascope.model.flow import noise
from vitascope.records import stable_int

STEPS = 4
SETTINGS = f"""
[run]
folder = "HERE/run"
[clips]
input = "HERE/in"
captions = "HERE/in/captions.csv"
val_share = 0.0
[encode]
codec = "diffusers"
codec_folder = "HERE/pipeline"
text_encoder = "hf"
text_folder = "HERE/pipeline"
max_pixels = 2304
frame_counts = [1, 5]
[feed]
token_budget = 256
packs_per_step = 2
[model]
start_from = "HERE/pipeline"
[train]
steps = {STEPS}
lr = 1e-3
warmup_steps = 1
checkpoint_every = 2
text_dropout = 0.3
"""
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Path, Settings]:  # noqa: ARG001
    """The folder with the pipeline and the run, and the run's settings."""
    here = tmp_path_factory.mktemp("wan")
    write_pipeline(here)
    (here / "in").mkdir()
    sources.make(here / "in")
    (here / "settings.toml").write_text(SETTINGS.replace("HERE", str(here)))
    for stage in ("clips", "encode", "train"):
        assert cli.main([stage, str(here / "settings.toml")]) == 0
    return here, config.load(str(here / "settings.toml"))


def test_all_sizes_are_trained_from_the_published_weights(trained: tuple[Path, Settings]) -> None:
    here, settings = trained
    summary = storage.read_json(settings.path("summaries", "train.json"))
    assert (summary["steps"], summary["ranks"]) == (STEPS, 2)
    sizes = storage.read_json(settings.path("summaries", "encode.json"))["sizes"]
    assert {each["size"] for each in sizes} == {"1x32x48", "5x32x48", "5x48x32"}
    model, card = load_model(settings.path("model"))
    assert (card.model.network, card.model.depth, card.channels) == ("wan", 2, 16)
    assert card.codec == make_codec(card.encode).fingerprint
    assert card.text == make_text_encoder(card.encode).fingerprint
    before = load_file(here / "pipeline" / WEIGHTS)
    moved = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert len(moved) > len(before) / 2
    assert all((model.state_dict()[name] - before[name]).abs().max() < 0.05 for name in moved)


def test_diffusers_runs_the_exported_pipeline(trained: tuple[Path, Settings]) -> None:
    here, settings = trained
    assert cli.main(["export", settings.run.folder, "--to", str(here / "out")]) == 0
    parts = {path.name for path in (here / "out").iterdir()}
    assert parts >= {"model_index.json", "vae", "text_encoder", "tokenizer", "scheduler", "transformer"}
    pipeline = diffusers.WanPipeline.from_pretrained(here / "out")
    pipeline.set_progress_bar_config(disable=True)
    model, _ = load_model(settings.path("model"))
    ours = model.state_dict()
    theirs = pipeline.transformer.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items())
    latents = pipeline(
        "a rabbit", height=32, width=48, num_frames=5, num_inference_steps=2, output_type="latent"
    ).frames
    assert latents.shape == (1, 16, 2, 4, 6)
    assert latents.isfinite().all()
    exported = opened(config.load(None, [f"generate.model={here / 'out'}"]))
    assert (exported.sampling.solver, exported.sampling.shift) == ("unipc", 3.0)
    (network,) = exported.load("cpu").networks
    assert all(torch.equal(weight, ours[name]) for name, weight in network.state_dict().items())


def test_a_published_pipeline_generates_without_any_training(
    tmp_path: Path,
    ray_cluster: None,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two experts; each output is what diffusers makes from the same noise, but for the mp4's losses."""
    folder = write_pipeline(tmp_path, boundary=0.875)
    small = {"prompt": "a large rabbit", "width": 64, "height": 48, "steps": 4}
    lines: list[dict[str, Any]] = [
        {"custom_id": "a", "seconds": 5 / 8, "guidance_2": 3},
        {"custom_id": "b", "seconds": 9 / 8, "solver": "euler", "width": 48},
        {"custom_id": "c", "seconds": 0},
        {"custom_id": "d", "seconds": 2, "mode": "image_to_video", "image": "a.png"},
    ]
    storage.put(str(tmp_path / "requests.jsonl"), storage.json_lines(small | line for line in lines))
    (tmp_path / "settings.toml").write_text(
        f"[run]\nfolder = '{tmp_path}/run'\n[generate]\nmodel = '{folder}'\n"
        f"requests = '{tmp_path}/requests.jsonl'\n"
    )
    assert cli.main(["generate", str(tmp_path / "settings.toml")]) == 0
    assert "each denoise replica keeps 2 networks in memory" in capsys.readouterr().out
    settings = config.load(str(tmp_path / "settings.toml"))
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "dropped"]
    assert "was published for text_to_video, got mode image_to_video" in rows[3]["detail"]
    first, second, _ = (storage.read_json(row["uri"].rpartition(".")[0] + ".json") for row in rows[:3])
    asked = ("steps", "guidance", "guidance_2", "solver", "shift")
    assert [first[name] for name in asked] == [4, 5.0, 3.0, "unipc", 3.0]
    assert [second[name] for name in asked] == [4, 5.0, None, "euler", 3.0]
    assert first["model"]["folder"] == str(folder)
    pipeline = diffusers.WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for row, size in zip(rows, [(5, 48, 64), (9, 48, 48), (1, 48, 64)], strict=False):
        assert (row["n_frames"], row["height"], row["width"]) == size
    with Image.open(rows[2]["uri"]) as picture:
        found = np.asarray(picture).astype(int)
    eps = noise(stable_int("generate", stable_int("seed", "c")), (4 * 3, 64))
    expected = pipeline(
        "a large rabbit",
        height=48,
        width=64,
        num_frames=1,
        num_inference_steps=4,
        latents=unpatchify(eps, (1, 3, 4), 2).permute(3, 0, 1, 2)[None],
        output_type="np",
    ).frames[0][0]
    assert np.abs(found - 255 * expected).max() < 2
    assert found.std() > 5


def test_a_checkpoint_and_its_raw_weights_can_be_exported(trained: tuple[Path, Settings]) -> None:
    here, settings = trained
    words = ["export", settings.run.folder, "--step", str(STEPS), "--format", "comfyui"]
    for kind in ("raw", "ema"):
        assert cli.main([*words, "--weights", kind, "--to", str(here / kind)]) == 0
    raw, ema = (load_file(here / kind / "diffusion_model.safetensors") for kind in ("raw", "ema"))
    assert raw.keys() == ema.keys()
    assert "blocks.0.self_attn.q.weight" in raw
    assert any(not torch.equal(raw[name], ema[name]) for name in raw)
    model, _ = load_model(settings.path("model"))
    assert torch.equal(ema["blocks.0.self_attn.q.weight"], model.state_dict()["blocks.0.attn1.to_q.weight"])


@pytest.mark.parametrize("to", ["pipeline", "pipeline/transformer", ".", "run/model", "run"])
def test_what_is_read_is_not_overwritten(
    trained: tuple[Path, Settings], to: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here, settings = trained
    files = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert cli.main(["export", settings.run.folder, "--to", str(here / to)]) == 2
    assert "which is read, overlap; export to another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == files


def test_a_checkpoint_that_lacks_a_ranks_part_is_passed_over(
    trained: tuple[Path, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, settings = trained
    run = Path(shutil.copytree(settings.run.folder, tmp_path / "run"))
    (run / f"train/checkpoints/step-{STEPS:08d}/state-00001-of-00002.safetensors").unlink()
    words = ["export", str(run), "--weights", "raw", "--format", "wan", "--to", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert "raw weights after step 2, as wan" in capsys.readouterr().out


def test_a_run_that_goes_on_from_a_model_keeps_pipeline_and_format(
    trained: tuple[Path, Settings], tmp_path: Path
) -> None:
    here, settings = trained
    weights, card = load_file(here / "run/model/model.safetensors"), load_card(settings.path("model"))
    shape = card.model.model_copy(update={"start_from": settings.path("model")})
    save_model(str(tmp_path / "second"), weights, card.model_copy(update={"model": shape}))
    assert cli.main(["export", str(tmp_path / "second"), "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model_index.json").exists()
    assert (tmp_path / "out" / WEIGHTS).exists()


def test_weights_are_exported_though_those_they_started_from_are_gone(
    trained: tuple[Path, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, settings = trained
    weights, card = load_file(here / "run/model/model.safetensors"), load_card(settings.path("model"))
    shape = card.model.model_copy(update={"start_from": str(tmp_path / "gone")})
    save_model(str(tmp_path / "model"), weights, card.model_copy(update={"model": shape}))
    assert cli.main(["export", str(tmp_path / "model"), "--to", str(tmp_path / "out")]) == 0
    assert "gone, from which training started" in capsys.readouterr().out
    found = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_a_step_without_a_checkpoint_is_named(
    trained: tuple[Path, Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    here, settings = trained
    assert cli.main(["export", settings.run.folder, "--step", "3", "--to", str(here / "none")]) == 2
    assert "has no checkpoint after step 3; it has them after 2, 4" in capsys.readouterr().err
