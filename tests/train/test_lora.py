"""Adapters are trained next to frozen weights, divided over the ranks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call

from alone import begin, resumed
from model.wan_reference import layout
from synthetic import CHANNELS, TEXT_DIM, make_run
from train.of_ranks import STEPS, figures
from vitascope import config
from vitascope.config import Settings, SettingsError
from vitascope.errors import Mistake
from vitascope.feed.plan import Position
from vitascope.feed.source import load_pack
from vitascope.feed.stream import Step
from vitascope.model import flow
from vitascope.train.engine import Ranks
from vitascope.train.schedule import learning_rate
from vitascope.train.stage import plan_job
from vitascope.train.step import take_step

OF = layout(CHANNELS, TEXT_DIM, depth=2, width=64, heads=4, ffn=80)
SIZES = ["model.depth=12", "model.width=768", "model.heads=12"]
WEIGHTS = "diffusion_pytorch_model.safetensors"
CHECKPOINT = "state-00000-of-00001.safetensors"
LAYERS = [
    f"blocks.{number}.{layer}"
    for number in range(2)
    for layer in (
        *(f"{attn}.{part}" for attn in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")),
        *("ffn.net.0.proj", "ffn.net.2"),
    )
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer's folder as diffusers writes it."""
    folder = tmp_path_factory.mktemp("published")
    OF.theirs().save_pretrained(folder)
    return folder


def adapting(published: Path, *more: str) -> list[str]:
    """Settings of adapters of rank 4, which are multiplied by 6 / 4."""
    return [*SIZES, f"model.start_from={published}", "model.lora.rank=4", "model.lora.alpha=6.0", *more]


@pytest.mark.parametrize("recomputes", ["false", "true"])
def test_losses_are_those_of_weights_with_the_adapters_merged(
    published: Path, tmp_path: Path, alone: Ranks, recomputes: str
) -> None:
    more = [f"train.activation_checkpointing={recomputes}", "train.lr=0.01"]
    settings = make_run(str(tmp_path), adapting(published, *more))
    engine, feed = begin(settings, alone)
    shapes = engine.save(tmp_path).shapes
    assert shapes.keys() == {f"{name}.lora.{part}" for name in LAYERS for part in "AB"}
    stored = load_file(tmp_path / CHECKPOINT)
    start = {name: stored[f"master/{name}"].reshape(shape) for name, shape in shapes.items()}
    steps, rows = [], []
    for step in feed.steps(Position(), 10):
        rows.append(take_step(engine, alone, step).row)
        steps.append(step)
    losses = [row["loss"] for row in rows]
    assert losses == pytest.approx(reference(settings, start, steps), rel=1e-5)
    assert losses != pytest.approx(reference(settings, start, steps, frozen=True), rel=1e-2)


def reference(
    settings: Settings, start: Mapping[str, Tensor], steps: Sequence[Step], *, frozen: bool = False
) -> list[float]:
    """Losses of training without DeepSpeed and without layers for adapters, which are in the weights."""
    network, base = OF.ours(), load_file(f"{settings.model.start_from}/{WEIGHTS}")
    adapters = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    optimizer = torch.optim.AdamW(adapters.values(), betas=(0.9, 0.99), weight_decay=0.01)
    job = plan_job(settings)
    source, losses = job.source("train", job.draws), []
    for number, step in enumerate(steps):
        merged = dict(base)
        for name in LAYERS:
            delta = adapters[f"{name}.lora.B"] @ adapters[f"{name}.lora.A"] * (6 / 4)
            merged[f"{name}.weight"] = base[f"{name}.weight"] + delta
        packs = [load_pack(source, step.position, n) for n in range(settings.feed.packs_per_step)]
        parts = [flow.loss(lambda p, w=merged: functional_call(network, w, (p,)), pack) for pack in packs]
        loss = torch.stack(parts).sum() / step.n_tokens
        losses.append(float(loss))
        if not frozen:
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapters.values(), settings.train.grad_clip)
            optimizer.param_groups[0]["lr"] = learning_rate(settings.train, number)
            optimizer.step()
    return losses


def test_a_resumed_run_takes_the_same_steps_and_its_checkpoint_holds_adapters_alone(
    published: Path, tmp_path: Path, alone: Ranks
) -> None:
    settings = make_run(str(tmp_path / "run"), adapting(published))
    rows, later, shards = resumed(settings, alone, tmp_path, steps=4)
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in later] == [row[key] for row in rows[2:]]
    assert len({row["loss"] for row in rows}) == 4
    n_adapters = sum(torch.Size(shape).numel() for shape in shards.shapes.values())
    stored = load_file(tmp_path / CHECKPOINT)
    assert sum(tensor.numel() for tensor in stored.values()) == 4 * n_adapters  # weight, two moments, EMA
    assert n_adapters < sum(p.numel() for p in OF.ours().parameters()) / 4


def test_frozen_weights_stay_as_they_were(published: Path, tmp_path: Path, alone: Ranks) -> None:
    settings = make_run(str(tmp_path), adapting(published))
    engine, feed = begin(settings, alone)
    for step in feed.steps(Position(), 2):
        take_step(engine, alone, step)
    weights = dict(engine.model.module.named_parameters())
    for name, tensor in load_file(published / WEIGHTS).items():
        held = weights[name].ds_tensor if weights[name].numel() == 0 else weights[name]
        assert torch.equal(held.flatten()[: tensor.numel()], tensor.flatten()), name


def test_two_ranks_train_adapters_as_one_does(published: Path, tmp_path: Path) -> None:
    run = adapting(published, "model.lora.dropout=0.5")
    one, two = ([[*run, f"train.activation_checkpointing={recomputes}"]] for recomputes in ("false", "true"))
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        alone = processes.submit(figures, str(tmp_path / "alone"), 0, 1, one)
        together = [processes.submit(figures, str(tmp_path / "together"), rank, 2, two) for rank in range(2)]
        (expected,), *found = [each.result() for each in (alone, *together)]
    assert len({loss for loss, _ in expected}) == STEPS
    assert all(norm for _, norm in expected)
    for (steps,) in found:
        for step, reference_step in zip(steps, expected, strict=True):
            assert step == pytest.approx(reference_step, rel=1e-5)


def test_dropout_changes_only_what_is_trained(published: Path, tmp_path: Path, alone: Ranks) -> None:
    losses = []
    for dropout in (0.0, 0.5):
        settings = make_run(
            str(tmp_path / f"{dropout}"), adapting(published, f"model.lora.dropout={dropout}")
        )
        engine, feed = begin(settings, alone)
        losses.append([take_step(engine, alone, step).row["loss"] for step in feed.steps(Position(), 2)])
    plain, dropped = losses
    assert plain[0] == dropped[0]  # the adapters still add nothing
    assert plain[1] != dropped[1]


def test_a_target_that_names_no_layer_is_refused(published: Path, tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), adapting(published, 'model.lora.targets=["to_q", "q_proj"]'))
    with pytest.raises(Mistake, match=r"targets names q_proj, and no linear .* attn1\.to_q, .*ffn\.net\.2"):
        plan_job(settings)


def test_adapters_without_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"model\.start_from names none; set it to a folder"):
        config.load(None, ["model.lora.rank=4"])


def test_dropout_is_the_same_after_a_resume(published: Path, tmp_path: Path, alone: Ranks) -> None:
    settings = make_run(str(tmp_path / "run"), adapting(published, "model.lora.dropout=0.5"))
    rows, later, _ = resumed(settings, alone, tmp_path, steps=3)
    assert [row["loss"] for row in later] == [rows[2]["loss"]]
