"""What weights are for follows from the pipeline around them, or from their sizes."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from model.wan_reference import layout
from synthetic import CHANNELS, TEXT_DIM, make_run
from vitascope import config
from vitascope.errors import Mistake
from vitascope.model.formats.card import ModelCard, save_model
from vitascope.model.formats.purpose import Expert, expert_at
from vitascope.train.job import State, check_identity, check_settings
from vitascope.train.stage import plan_job

OF = layout(CHANNELS, TEXT_DIM, depth=1, width=256, heads=2, ffn=32)
WEIGHTS = "diffusion_pytorch_model.safetensors"
HIGH, LOW = "train.noise_range=[0.875, 1.0]", "train.noise_range=[0.0, 0.875]"


def pipeline(folder: Path, *parts: str, **index: Any) -> Path:
    """A pipeline of transformers alone."""
    for part in parts:
        OF.theirs().save_pretrained(folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", **index}))
    return folder


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of two experts, as Wan2.2-T2V-A14B."""
    folder = tmp_path_factory.mktemp("experts")
    pipeline(folder, "transformer", "transformer_2", boundary_ratio=0.875, expand_timesteps=False)
    other = load_file(folder / "transformer_2" / WEIGHTS)
    save_file({name: 2 * tensor for name, tensor in other.items()}, folder / "transformer_2" / WEIGHTS)
    return folder


def card_of(folder: Path, start: object, *overrides: str) -> ModelCard:
    """The card of a run that starts from weights."""
    sizes = ["model.depth=12", "model.width=768", "model.heads=12"]  # the defaults
    return plan_job(make_run(str(folder), [*sizes, f"model.start_from={start}", *overrides])).card


@pytest.mark.parametrize(
    ("place", "part", "levels"),
    [
        ("", "transformer", (0.875, 1.0)),
        ("/", "transformer", (0.875, 1.0)),
        ("/transformer", "transformer", (0.875, 1.0)),
        ("/transformer/", "transformer", (0.875, 1.0)),
        ("/transformer_2", "transformer_2", (0.0, 0.875)),
    ],
)
def test_an_expert_has_the_noise_levels_on_its_side_of_the_boundary(
    experts: Path, place: str, part: str, levels: tuple[float, float]
) -> None:
    found = expert_at(f"{experts}{place}")
    assert found == Expert(str(experts), part, per_frame=False, boundary=0.875)
    assert found.noise_range == levels


def test_weights_alone_have_no_pipeline(experts: Path) -> None:
    assert expert_at(str(experts / "transformer" / WEIGHTS)) is None
    assert expert_at(str(experts.parent)) is None


@pytest.mark.parametrize("index", ["[]", "{", '{"boundary_ratio": "high"}', '{"boundary_ratio": 1.5}'])
def test_a_damaged_pipeline_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(Mistake, match=r"model_index\.json (is no JSON object|says boundary_ratio = )"):
        expert_at(str(tmp_path))


@pytest.mark.parametrize(
    ("place", "overrides", "right"),
    [
        ("", [], r"\[0\.875, 1\.0\]"),
        ("transformer", [LOW], r"\[0\.875, 1\.0\]"),
        ("transformer_2", [], r"\[0\.0, 0\.875\]"),
        ("transformer_2", [HIGH], r"\[0\.0, 0\.875\]"),
        ("transformer_2", ["train.noise_range=[0.8, 0.9]"], r"\[0\.0, 0\.875\]"),
    ],
)
def test_levels_of_the_other_expert_are_refused_and_the_right_ones_named(
    experts: Path, tmp_path: Path, place: str, overrides: list[str], right: str
) -> None:
    start = experts / place
    with pytest.raises(Mistake, match=rf"of an expert for .*; set train\.noise_range = {right}"):
        card_of(tmp_path, start, *overrides)
    settings = config.load(None, [f"run.folder={tmp_path}", f"model.start_from={start}", *overrides])
    with pytest.raises(Mistake, match=r"of an expert for "):  # before clips and latents are made, too
        check_settings(settings)


def test_the_card_says_what_was_trained_and_what_the_network_is_for(experts: Path, tmp_path: Path) -> None:
    card = card_of(tmp_path, experts / "transformer_2", "train.noise_range=[0.1, 0.8]")
    again = ModelCard.model_validate_json(card.model_dump_json())
    assert (again.noise_range, again.expert, again.conditioning_frames) == ((0.1, 0.8), (0.0, 0.875), "none")
    assert again.timestep_shift == 5.0
    assert again == card


def test_a_run_that_goes_on_from_a_model_has_its_expert_and_its_conditioning_frames(
    experts: Path, tmp_path: Path
) -> None:
    first = card_of(tmp_path / "1", experts / "transformer_2", LOW, "train.conditioning_frames=all")
    model = tmp_path / "model"
    save_model(str(model), OF.ours().state_dict(), first)
    assert card_of(tmp_path / "2", model, LOW).conditioning_frames == "all"
    with pytest.raises(Mistake, match=r"set train\.noise_range = \[0\.0, 0\.875\]"):
        card_of(tmp_path / "3", model, HIGH)


@pytest.mark.parametrize(
    ("index", "overrides", "expected"),
    [
        ({"expand_timesteps": True, "boundary_ratio": None}, [], "first"),  # TI2V-5B
        ({}, [], "none"),
        ({}, ["train.conditioning_frames=first"], "first"),
        ({"expand_timesteps": True}, ["train.conditioning_frames=none"], "none"),
    ],
)
def test_conditioning_frames_follow_from_the_pipeline_unless_they_are_chosen(
    tmp_path: Path, index: dict[str, Any], overrides: list[str], expected: str
) -> None:
    pipeline(tmp_path / "in", "transformer", **index)
    card = card_of(tmp_path / "run", tmp_path / "in", *overrides)
    assert card.conditioning_frames == expected
    assert (card.noise_range, card.expert) == ((0.0, 1.0), (0.0, 1.0))


def test_the_small_network_keeps_its_objective(tmp_path: Path) -> None:
    card = plan_job(make_run(str(tmp_path))).card
    assert (card.timestep_shift, card.conditioning_frames, card.noise_range) == (1.0, "all", (0.0, 1.0))


def test_cards_of_earlier_releases_load(tmp_path: Path) -> None:
    card = plan_job(make_run(str(tmp_path))).card
    recorded = card.model_dump(mode="json", exclude={"conditioning_frames", "noise_range", "expert"})
    assert ModelCard.model_validate(recorded) == card


def test_a_checkpoint_of_an_earlier_release_is_continued_as_it_was_trained(tmp_path: Path) -> None:
    job = plan_job(make_run(str(tmp_path / "1"), ["train.conditioning_frames=all"]))
    recorded = {k: v for k, v in job.identity.items() if k not in ("conditioning_frames", "noise_range")}
    made = {"step": 1, "ranks": 1, "shapes": {}, "position": {"step": 1}}
    check_identity(State(identity=recorded, **made), job)
    other = plan_job(make_run(str(tmp_path / "2"), ["train.conditioning_frames=none"]))
    with pytest.raises(Mistake, match=r"conditioning_frames: checkpoint 'all', settings 'none'"):
        check_identity(State(identity=recorded, **made), other)
    with pytest.raises(Mistake, match=r"noise_range: checkpoint \[0\.0, 1\.0\], settings \[0\.0, 0\.875\]"):
        check_identity(State(identity=job.identity, **made), plan_job(make_run(str(tmp_path / "3"), [LOW])))
