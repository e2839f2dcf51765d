"""The two experts of Wan 2.2 A14B are trained on the same latents, and go back into one pipeline."""

from itertools import islice
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from alone import begin, held_out_losses
from flow.wan_folders import TEXT_DIM, write_pipeline
from synthetic import make_run
from vitascope import cli, storage
from vitascope.config import Settings, SettingsError
from vitascope.encode import stage as encode
from vitascope.encode.settings import EncodeSettings
from vitascope.errors import Mistake
from vitascope.evaluate import stage as evaluate
from vitascope.feed.plan import Position
from vitascope.feed.source import load_pack, planned
from vitascope.model.formats.card import ModelCard, save_model
from vitascope.model.formats.purpose import as_trained
from vitascope.model.formats.start import open_start
from vitascope.model.settings import ModelSettings
from vitascope.stages import runner
from vitascope.train.engine import Ranks
from vitascope.train.settings import TrainSettings
from vitascope.train.stage import plan_job
from vitascope.train.step import take_step

RANGES = {"transformer": (0.875, 1.0), "transformer_2": (0.0, 0.875)}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole pipeline with two experts."""
    return write_pipeline(tmp_path_factory.mktemp("experts"), boundary=0.875)


def runs(folder: Path, pipeline: Path) -> list[Settings]:
    """Settings of a run with latents of its own, and of one on the same latents, each of one expert."""
    sizes = ["model.depth=12", "model.width=768", "model.heads=12"]  # the defaults
    first = make_run(str(folder / "high"), sizes, channels=16)
    second = first.model_copy(
        update={
            "run": first.run.model_copy(update={"folder": str(folder / "low")}),
            "feed": first.feed.model_copy(update={"latents": first.path("latents")}),
        }
    )
    return [
        settings.model_copy(
            update={
                "model": settings.model.model_copy(update={"start_from": str(pipeline / part)}),
                "train": settings.train.model_copy(update={"noise_range": levels}),
            }
        )
        for settings, (part, levels) in zip((first, second), RANGES.items(), strict=True)
    ]


def test_both_are_trained_on_the_same_latents_by_the_same_plan(
    pipeline: Path, tmp_path: Path, alone: Ranks
) -> None:
    settings = runs(tmp_path, pipeline)
    high, low = (plan_job(each) for each in settings)
    assert (high.latents, high.samples) == (low.latents, low.samples)
    sources = [job.source("train", job.draws) for job in (high, low)]
    steps = [list(islice(planned(source).planner.walk(), 12)) for source in sources]
    for (where, one), (_, other) in zip(*steps, strict=True):
        assert [pack.tolist() for pack in one.packs] == [pack.tolist() for pack in other.packs]
        for number in range(len(one.packs)):
            a, b = (load_pack(source, where, number) for source in sources)
            assert torch.equal(a.tokens, b.tokens)
            assert a.noise_keys.tolist() == b.noise_keys.tolist()
            assert (a.timesteps >= 0.875).all()
            assert ((b.timesteps > 0) & (b.timesteps <= 0.875)).all()
    for each, job in zip(settings, (high, low), strict=True):
        engine, feed = begin(each, alone)
        rows = [take_step(engine, alone, step).row for step in feed.steps(Position(), 2)]
        assert all(row["loss"] > 0 for row in rows)
        assert job.identity["noise_range"] == list(each.train.noise_range)


def test_held_out_samples_are_measured_at_the_levels_of_the_expert(pipeline: Path, tmp_path: Path) -> None:
    high, low = runs(tmp_path, pipeline)
    assert plan_job(high).probe.levels == (0.9,)
    assert plan_job(low).probe.levels == (0.1, 0.3, 0.5, 0.7)
    card = plan_job(low).card
    model = card.build()
    model.load_state_dict(dict(open_start(str(pipeline / "transformer_2")).weights))
    fingerprint = plan_job(low).latents.rpartition("/")[2]
    save_model(low.path("model"), model.state_dict(), card.model_copy(update={"fingerprint": fingerprint}))
    evaluate.run(low)
    losses = storage.read_json(low.path("evaluate", "losses.json"))
    assert losses["timesteps"] == [0.1, 0.3, 0.5, 0.7]
    assert losses["loss"] == pytest.approx(held_out_losses(low, model.eval()).tolist(), rel=1e-5)
    others = low.evaluate.model_copy(update={"timesteps": (0.9,)})
    with pytest.raises(Mistake, match=r"at noise levels 0 to 0\.875, and evaluate\.timesteps has none"):
        evaluate.run(low.model_copy(update={"evaluate": others}))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["train.noise_range=[0.95, 1.0]"],
            r"none of them is within train\.noise_range, 0\.95 to 1",
        ),
        (["train.noise_range=[1.0, 0.875]"], r"train\.noise_range: expected two noise levels from 0 to 1"),
        (["train.noise_range=[0.5, 0.505]"], r"at least 0\.01 apart"),
        (["train.noise_range=[0.5, 1.5]"], r"from 0 to 1"),
    ],
)
def test_ranges_that_cannot_be_are_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_run(str(tmp_path), overrides)


def test_a_run_on_the_latents_of_another_makes_none(pipeline: Path, tmp_path: Path) -> None:
    high, low = runs(tmp_path, pipeline)
    assert runner.stages(high) == ["clips", "encode", "data", "train", "generate", "evaluate", "report"]
    assert runner.stages(low) == ["train", "generate", "evaluate", "report"]
    with pytest.raises(Mistake, match=r"names another run's latents, and this run encodes none"):
        encode.run(low)


def model_of(folder: Path, start: Path) -> dict[str, torch.Tensor]:
    """The model folder of a run that started from one expert, and its weights: changed ones."""
    weights = {name: tensor + 0.01 for name, tensor in open_start(str(start)).weights.items()}
    settings = TrainSettings(noise_range=RANGES[start.name])
    card = ModelCard(
        model=ModelSettings(network="wan", depth=2, width=36, heads=3, ffn=64, start_from=str(start)),
        encode=EncodeSettings(),
        channels=16,
        text_dim=TEXT_DIM,
        fingerprint="",
        step=3,
    )
    save_model(str(folder), weights, as_trained(card, settings))
    return weights


def test_the_second_expert_is_exported_next_to_the_first_of_an_earlier_export(
    pipeline: Path, tmp_path: Path
) -> None:
    """The second run starts from the export of the first, so that its own export has both."""
    before = {part: load_file(pipeline / part / WEIGHTS) for part in RANGES}
    low = model_of(tmp_path / "low", pipeline / "transformer_2")
    assert cli.main(["export", str(tmp_path / "low"), "--to", str(tmp_path / "one")]) == 0
    check(tmp_path / "one", {"transformer": before["transformer"], "transformer_2": low})
    high = model_of(tmp_path / "high", tmp_path / "one" / "transformer")
    assert cli.main(["export", str(tmp_path / "high"), "--to", str(tmp_path / "both")]) == 0
    check(tmp_path / "both", {"transformer": high, "transformer_2": low})


def check(folder: Path, expected: dict[str, dict[str, torch.Tensor]]) -> None:
    """Diffusers loads and runs the pipeline, with these weights."""
    found = diffusers.WanPipeline.from_pretrained(folder)
    for part, weights in expected.items():
        theirs = getattr(found, part).state_dict()
        assert theirs.keys() == weights.keys()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in theirs.items()), part
    assert found.config.boundary_ratio == 0.875
    found.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 3}
    assert found("a rabbit", **size, output_type="latent").frames.isfinite().all()


def test_what_is_read_is_not_overwritten(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_of(tmp_path / "low", pipeline / "transformer_2")
    for to in (pipeline, pipeline / "transformer", pipeline / "new"):
        assert cli.main(["export", str(tmp_path / "low"), "--to", str(to)]) == 2
        assert "which is read, overlap; export to another folder" in capsys.readouterr().err
