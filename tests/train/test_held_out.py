"""The held-out loss is the same in every run, and the same as that of `evaluate`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alone import held_out_losses
from synthetic import make_run
from vitascope import storage
from vitascope.config import Settings
from vitascope.evaluate import stage
from vitascope.model import flow
from vitascope.model.formats.card import save_model
from vitascope.train.stage import plan_job


def model_of(settings: Settings, seed: int, fresh: bool = True) -> Any:
    torch.manual_seed(seed)
    model = plan_job(settings).card.build()
    if not fresh:
        torch.nn.init.normal_(model.out.weight, std=0.1)
    return model


def test_the_first_loss_is_the_same_with_other_seeds_ranks_and_packs(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path))
    expected = held_out_losses(settings, model_of(settings, 0))
    for overrides, ranks in [
        (["run.seed=7"], 1),
        (["feed.token_budget=500"], 1),
        (["train.timestep_shift=6.0", "train.text_dropout=0.5"], 1),
        ([], 2),
        (["feed.packs_per_step=8"], 4),  # more packs than samples: some ranks have none
    ]:
        other = make_run(str(tmp_path), overrides)
        found = held_out_losses(other, model_of(other, 99), ranks)
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=str(overrides))


def test_it_is_what_evaluate_measures(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), ["evaluate.timesteps=[0.03, 0.5, 1.0]"])
    model = model_of(settings, 3, fresh=False)
    card = plan_job(settings).card.model_copy(
        update={"fingerprint": stage.latents_folder(settings).rpartition("/")[2]}
    )
    save_model(settings.path("model"), model.state_dict(), card)
    stage.run(settings)
    document = storage.read_json(settings.path("evaluate", "losses.json"))
    np.testing.assert_allclose(held_out_losses(settings, model.eval()), document["loss"], rtol=1e-5)


def test_levels_do_not_depend_on_luck() -> None:
    """Of random levels, one each, the mean loss of a fresh model differs severalfold between runs."""
    probe = flow.Probe((0.1, 0.5, 0.9))
    draws = [probe(sample, level, (4, 2, 2)) for sample in range(5) for level in range(3)]
    assert [float(draw.timesteps[0]) for draw in draws] == pytest.approx([0.1, 0.5, 0.9] * 5)
    assert all((draw.timesteps == draw.timesteps[0]).all() and not draw.drop_text for draw in draws)
    assert len({draw.noise_key for draw in draws}) == 5  # a sample's own, the same at every level
