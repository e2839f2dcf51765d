"""A published pipeline goes in, is trained on files of several sizes, and diffusers runs what comes out."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flow import sources
from flow.wan_folders import TEXT_DIM, transformer, write_pipeline
from vitascope import cli, config, storage
from vitascope.config import Settings
from vitascope.encode.codecs import make_codec
from vitascope.encode.text import make_text_encoder
from vitascope.feed.patches import unpatchify
from vitascope.generate.opened import opened
from vitascope.model.flow import noise
from vitascope.model.formats.adapters import write_adapter
from vitascope.model.formats.card import load_card, save_model
from vitascope.model.formats.load import load_model
from vitascope.model.formats.start import open_start
from vitascope.model.lora import Merged, Pair, linears
from vitascope.records import stable_int
from vitascope.train import export

STEPS, EVERY = 20, 10
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
checkpoint_every = {EVERY}
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
    adapters = [adapter_at(tmp_path / name, seed) for seed, name in enumerate(("high", "low"))]
    lines: list[dict[str, Any]] = [
        {"custom_id": "a", "seconds": 5 / 8, "guidance_2": 3},
        {"custom_id": "b", "seconds": 9 / 8, "solver": "euler", "width": 48},
        {"custom_id": "c", "seconds": 0},
        {"custom_id": "adapted", "seconds": 0, "adapter": "film", "adapter_weight": 0.8},
        {"custom_id": "d", "seconds": 2, "mode": "image_to_video", "image": "a.png"},
    ]
    storage.put(str(tmp_path / "requests.jsonl"), storage.json_lines(small | line for line in lines))
    (tmp_path / "settings.toml").write_text(
        f"[run]\nfolder = '{tmp_path}/run'\n[generate]\nmodel = '{folder}'\n"
        f"requests = '{tmp_path}/requests.jsonl'\n"
        f"adapters.film = ['{tmp_path}/high', '{tmp_path}/low']\n"
    )
    assert cli.main(["generate", str(tmp_path / "settings.toml")]) == 0
    assert "each denoise replica keeps 2 networks in memory" in capsys.readouterr().out
    settings = config.load(str(tmp_path / "settings.toml"))
    rows = storage.rows(settings.path("outputs", "batch", "manifest.parquet"))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "ok", "dropped"]
    assert "image_to_image, got mode image_to_video" in rows[4]["detail"]
    first, second, _ = (storage.read_json(row["uri"].rpartition(".")[0] + ".json") for row in rows[:3])
    asked = ("steps", "guidance", "guidance_2", "solver", "shift")
    assert [first[name] for name in asked] == [4, 5.0, 3.0, "unipc", 3.0]
    assert [second[name] for name in asked] == [4, 5.0, None, "euler", 3.0]
    assert first["model"]["folder"] == str(folder)
    pipeline = diffusers.WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    for row, size in zip(rows, [(5, 48, 64), (9, 48, 48), (1, 48, 64)], strict=False):
        assert (row["n_frames"], row["height"], row["width"]) == size
    for row, name in ((rows[2], "c"), (rows[3], "adapted")):
        if name == "adapted":
            for network, pairs in zip((pipeline.transformer, pipeline.transformer_2), adapters, strict=True):
                scaled = {layer: replace(pair, scale=0.8 * pair.scale) for layer, pair in pairs.items()}
                network.load_state_dict(dict(Merged(dict(network.state_dict()), scaled)))
        with Image.open(row["uri"]) as picture:
            found = np.asarray(picture).astype(int)
        eps = noise(stable_int("generate", stable_int("seed", name)), (4 * 3, 64))
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


def adapter_at(folder: Path, seed: int) -> dict[str, Pair]:
    """A random adapter for the pipeline's network, which it writes as ComfyUI has them."""
    generator = torch.Generator().manual_seed(seed)
    layers = [(name, layer) for name, layer in linears(transformer(16)) if name.startswith("blocks.")]
    pairs = {
        name: Pair(
            torch.randn(4, layer.in_features, generator=generator) / layer.in_features**0.5,
            torch.randn(layer.out_features, 4, generator=generator) / 2,
            scale=0.5,
        )
        for name, layer in layers
    }
    write_adapter(str(folder), pairs, "comfyui", torch.float32)
    return pairs


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


@pytest.fixture(scope="module")
def adapted(trained: tuple[Path, Settings]) -> tuple[Path, Settings]:
    """The folder with the pipeline, and a run that trained adapters on the same latents."""
    here, _ = trained
    shutil.copytree(
        here / "run", here / "adapted", ignore=shutil.ignore_patterns("train", "model", "train.json")
    )
    changes = [f"run.folder={here / 'adapted'}", "model.lora.rank=4", "model.lora.alpha=8.0", "train.lr=0.02"]
    words = [word for change in changes for word in ("--set", change)]
    assert cli.main(["train", str(here / "settings.toml"), *words]) == 0
    return here, config.load(str(here / "settings.toml"), changes)


@pytest.mark.parametrize("format", ["diffusers", "comfyui", "kohya"])
def test_diffusers_loads_trained_adapters_and_gives_our_output(
    adapted: tuple[Path, Settings], format: str, tmp_path: Path
) -> None:
    here, settings = adapted
    words = ["export", settings.run.folder, "--format", format, "--to"]
    assert cli.main([*words, str(tmp_path / "alone")]) == 0
    (file,) = (tmp_path / "alone").iterdir()
    pipeline = diffusers.WanPipeline.from_pretrained(here / "pipeline")
    pipeline.load_lora_weights(str(tmp_path / "alone"), weight_name=file.name)
    latent, text = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 512, TEXT_DIM)
    velocities = []
    for network in (pipeline.transformer, merged_transformer(settings), unchanged(here)):
        with torch.no_grad():
            velocities.append(network(latent, torch.tensor([500.0]), text, return_dict=False)[0])
    with_adapters, merged, before = velocities
    assert (with_adapters - merged).abs().max() < 1e-5 * merged.abs().max()
    assert (before - merged).abs().max() > 1e-3 * merged.abs().max()


def unchanged(here: Path) -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel.from_pretrained(here / "pipeline" / "transformer")


def merged_transformer(settings: Settings) -> diffusers.WanTransformer3DModel:
    """Diffusers' network with the weights of our model, in which the adapters are merged."""
    model, card = load_model(settings.path("model"))
    theirs = unchanged(Path(card.model.start_from or "").parent)
    theirs.load_state_dict(model.state_dict())
    return theirs


def test_adapters_are_merged_with_a_model_whose_own_start_is_gone(
    adapted: tuple[Path, Settings], tmp_path: Path
) -> None:
    here, settings = adapted
    card, base = load_card(settings.path("model")), load_card(str(here / "run/model"))
    gone = base.model.model_copy(update={"start_from": str(tmp_path / "gone")})
    weights = load_file(here / "run/model/model.safetensors")
    save_model(str(tmp_path / "base"), weights, base.model_copy(update={"model": gone}))
    start = open_start(str(tmp_path / "base"))
    shape = card.model.model_copy(update={"start_from": str(tmp_path / "base")})
    moved = card.model_copy(update={"model": shape, "start": start.identity})
    save_model(str(tmp_path / "model"), load_file(here / "adapted/model/model.safetensors"), moved)
    assert cli.main(["export", str(tmp_path / "model"), "--merge", "--to", str(tmp_path / "out")]) == 0
    found = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    ours = load_model(str(tmp_path / "model"))[0].state_dict()
    assert all(torch.equal(found[name], ours[name]) for name in ours)


def test_merged_adapters_are_exported_as_a_whole_pipeline(adapted: tuple[Path, Settings]) -> None:
    here, settings = adapted
    assert cli.main(["export", settings.run.folder, "--merge", "--to", str(here / "merged")]) == 0
    pipeline = diffusers.WanPipeline.from_pretrained(here / "merged")
    ours = load_model(settings.path("model"))[0].state_dict()
    assert all(torch.equal(weight, ours[name]) for name, weight in pipeline.transformer.state_dict().items())


def test_an_interrupted_export_is_no_pipeline(
    trained: tuple[Path, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings = trained
    out = tmp_path / "out"

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(export, "export_weights", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export.export(settings.run.folder, str(out), "diffusers", export.Chosen())
    assert (out / "vae" / "config.json").exists()
    assert not (out / "model_index.json").exists()
    assert cli.main(["export", settings.run.folder, "--to", str(out)]) == 0
    assert diffusers.WanPipeline.from_pretrained(out)


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
    assert f"raw weights after step {EVERY}, as wan" in capsys.readouterr().out


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
    assert f"has no checkpoint after step 3; it has them after {EVERY}, {STEPS}" in capsys.readouterr().err
