"""Training starts from published weights, and what comes out is published again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alone import begin, resumed
from model.wan_reference import layout
from synthetic import CHANNELS, TEXT_DIM, make_run
from vitascope import cli
from vitascope.errors import Missing, Mistake
from vitascope.feed.plan import Position
from vitascope.model.formats.card import load_card, save_model
from vitascope.model.formats.start import open_start
from vitascope.model.formats.wan_names import official_name
from vitascope.train.engine import Ranks
from vitascope.train.job import Job, State, check_identity
from vitascope.train.stage import plan_job

OF = layout(CHANNELS, TEXT_DIM, depth=2, width=256, heads=2, ffn=96)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer's folder as diffusers writes it, in bf16."""
    folder = tmp_path_factory.mktemp("published")
    OF.theirs().bfloat16().save_pretrained(folder)
    return folder


def test_the_sizes_follow_from_the_weights(published: Path, tmp_path: Path) -> None:
    fresh = ["model.depth=12", "model.width=768", "model.heads=12"]
    card = plan_job(make_run(str(tmp_path), [*fresh, f"model.start_from={published}"])).card
    assert card.model.model_copy(update={"start_from": None}) == OF.settings
    assert card.start == open_start(str(published)).identity


def test_one_rank_starts_with_the_weights_themselves(published: Path, tmp_path: Path, alone: Ranks) -> None:
    settings = make_run(str(tmp_path), starting(published))
    engine, _ = begin(settings, alone)
    assert {parameter.dtype for parameter in engine.model.parameters()} == {torch.float32}
    shards = engine.save(tmp_path)
    stored = load_file(tmp_path / "state-00000-of-00001.safetensors")
    for name, tensor in load_file(published / WEIGHTS).items():
        for kind in ("master", "ema"):
            assert torch.equal(stored[f"{kind}/{name}"], tensor.float().flatten()), (kind, name)
    assert (shards.step, shards.updates) == (0, 0)


def starting(location: Any) -> list[str]:
    sizes = ["model.depth=12", "model.width=768", "model.heads=12"]  # the defaults
    return [*sizes, f"model.start_from={location}"]


def test_all_that_is_published_can_be_a_start(published: Path, tmp_path: Path, s3: str) -> None:
    tensors = load_file(published / WEIGHTS)
    save_file({official_name(name): tensor for name, tensor in tensors.items()}, tmp_path / "one.safetensors")
    assert cli.main(["export", str(model_of(tensors, tmp_path / "model")), "--to", f"{s3}/bucket"]) == 0
    for location in (tmp_path / "one.safetensors", tmp_path / "model", f"{s3}/bucket"):
        start = open_start(str(location))
        assert start.of.settings == OF.settings
        assert all(torch.equal(start.weights[name].bfloat16(), tensor) for name, tensor in tensors.items())


def model_of(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """The model folder of a run that ended with these weights."""
    card = plan_job(make_run(str(folder / "run"))).card.model_copy(update={"model": OF.settings, "step": 3})
    save_model(str(folder), tensors, card)
    return folder


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("blocks.1.attn1.to_q.weight", r"do not fit the card next to them: .*blocks\.1\.attn1\.to_q\.weight"),
        (None, "SHA-256"),
    ],
)
def test_a_model_folder_that_is_damaged_is_no_start(
    published: Path, tmp_path: Path, lacks: str | None, said: str
) -> None:
    tensors = load_file(published / WEIGHTS)
    model = model_of(tensors, tmp_path / "model")
    file = model / "model.safetensors"
    if lacks:
        save_file({name: tensor for name, tensor in tensors.items() if name != lacks}, file)
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        plan_job(make_run(str(tmp_path / "run"), starting(model)))


def test_the_shift_is_that_of_the_model_that_goes_on(published: Path, tmp_path: Path) -> None:
    model = model_of(load_file(published / WEIGHTS), tmp_path / "model")
    card = load_card(str(model)).model_copy(update={"timestep_shift": 3.0})
    save_model(str(model), load_file(published / WEIGHTS), card)
    job = plan_job(make_run(str(tmp_path / "run"), starting(model)))
    assert job.card.timestep_shift == 3.0
    chosen = make_run(str(tmp_path / "run"), [*starting(model), "train.timestep_shift=2.0"])
    assert plan_job(chosen).card.timestep_shift == 2.0
    with pytest.raises(Mistake, match=r"timestep_shift: checkpoint 2\.0, settings 3\.0"):
        check_identity(state_of(plan_job(chosen)), job)
    earlier = state_of(plan_job(chosen))
    for key in ("timestep_shift", "text_dropout"):
        del earlier.identity[key]
    check_identity(earlier, job)


def state_of(job: Job) -> State:
    """Of a checkpoint of this job."""
    identity = dict(job.identity)
    return State(step=1, ranks=1, shapes={}, identity=identity, position=Position())


def test_other_weights_are_another_start(published: Path, tmp_path: Path) -> None:
    before = open_start(str(published)).identity
    tensors = load_file(published / WEIGHTS)
    tensors["proj_out.bias"][0] += 1
    (tmp_path / "config.json").write_bytes((published / "config.json").read_bytes())
    save_file(tensors, tmp_path / WEIGHTS)
    assert open_start(str(tmp_path)).identity != before


@pytest.mark.parametrize("format", ["diffusers", "wan"])
def test_what_goes_in_comes_out_unchanged(published: Path, tmp_path: Path, format: str) -> None:
    tensors = load_file(published / WEIGHTS)
    folder = model_of(tensors, tmp_path / "model")
    words = ["export", str(folder), "--to", str(tmp_path / "out"), "--format", format]
    assert cli.main([*words, "--precision", "bf16"]) == 0
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert found.keys() == {name if format == "diffusers" else official_name(name) for name in tensors}
    for name, tensor in tensors.items():
        got = found[name if format == "diffusers" else official_name(name)]
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, tensor)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ([], Missing, r"no config\.json in .*nothing"),
        (["model.ffn=64"], Mistake, r"model\.ffn = 64, and the weights in .* have .*width = 256"),
    ],
)
def test_what_cannot_be_a_start_is_refused(
    published: Path, tmp_path: Path, changes: list[str], error: type, said: str
) -> None:
    place = published if changes else tmp_path / "nothing"
    settings = make_run(str(tmp_path / "run"), [*starting(place), *changes])
    with pytest.raises(error, match=said):
        plan_job(settings)


def test_a_network_for_other_latents_is_refused(tmp_path: Path) -> None:
    layout(16, TEXT_DIM, depth=1, width=256, heads=2, ffn=96).theirs().save_pretrained(tmp_path / "in")
    settings = make_run(str(tmp_path / "run"), starting(tmp_path / "in"))
    with pytest.raises(Mistake, match=r"take channels = 16, and the codec dct of the latents gives 8"):
        plan_job(settings)


def test_a_run_that_is_resumed_takes_the_same_steps(published: Path, tmp_path: Path, alone: Ranks) -> None:
    settings = make_run(str(tmp_path / "run"), starting(published))
    rows, later, _ = resumed(settings, alone, tmp_path, steps=4)
    assert [row["loss"] for row in later] == [row["loss"] for row in rows[2:]]
    assert len({row["loss"] for row in rows}) == 4
