"""Our solvers and noise levels are those of diffusers' schedulers."""

import math
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from vitascope.generate.denoise.schedule import Schedule, as_published, spaced
from vitascope.generate.denoise.solvers import SOLVERS
from vitascope.model.dit import SMALLEST_TIMESTEP
from vitascope.model.flow import Shift

Case = tuple[int, float, int]
CASES: list[Case] = [
    (1, 3.0, 1000),
    (2, 5.0, 1000),
    (3, 1.0, 1000),
    (7, 12.0, 1000),
    (20, 2.3, 500),
    (50, 5.0, 1000),
]
"""Steps, shift and number of training timesteps."""


def scheduler_of(solver: str, shift: float, n_train: int) -> Any:
    """Diffusers' scheduler."""
    if solver == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift, num_train_timesteps=n_train)
    kind = UniPCMultistepScheduler if solver == "unipc" else DPMSolverMultistepScheduler
    return kind(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
        num_train_timesteps=n_train,
    )


@pytest.mark.parametrize(("steps", "shift", "n_train"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_and_timesteps_are_theirs(solver: str, steps: int, shift: float, n_train: int) -> None:
    scheduler = scheduler_of(solver, shift, n_train)
    scheduler.set_timesteps(steps)
    ours = as_published(solver, steps, shift, n_train=n_train)
    assert ours.levels == tuple(scheduler.sigmas.tolist())
    found = 1000 * torch.tensor(ours.timesteps)
    assert torch.equal(found.round(decimals=3), scheduler.timesteps.float().round(decimals=3))
    torch.testing.assert_close(found, scheduler.timesteps.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("steps", "shift", "n_train"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_makes_their_steps(solver: str, steps: int, shift: float, n_train: int) -> None:
    scheduler, levels = (
        scheduler_of(solver, shift, n_train),
        as_published(solver, steps, shift, n_train=n_train),
    )
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(steps)
    tokens = start = torch.randn(1, 6, 4, 1, 1, generator=generator)
    theirs, past = tokens, None
    mix = torch.randn(4, 4, generator=generator) / 2
    for step, t in enumerate(scheduler.timesteps):
        # A network that is not linear, so that every order of the solver matters.
        ours_v, theirs_v = (
            torch.einsum("bncxy,cd->bndxy", x, mix).tanh() * 2 - 0.3 * x for x in (tokens, theirs)
        )
        tokens, past = SOLVERS[solver](tokens, ours_v, (levels.levels, step), past)
        theirs = scheduler.step(theirs_v, t, theirs).prev_sample
        torch.testing.assert_close(tokens, theirs, atol=2e-5, rtol=2e-5)
    assert (tokens - start).abs().max() > 0.3


def test_unipc_is_more_exact_than_euler_and_starts_at_pure_noise() -> None:
    """Of Gaussian data with a standard deviation of 1, the exact solution is known."""
    levels = Schedule.of((*torch.linspace(1, 0.02, 40).tolist(), 0.0)).levels
    std, eps = 1.0, torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def solve(solver: str) -> torch.Tensor:
        tokens, past = eps, None
        for step, t in enumerate(levels[:-1]):
            clean = tokens * std**2 * (1 - t) / ((1 - t) ** 2 * std**2 + t**2)
            tokens, past = SOLVERS[solver](tokens, (tokens - clean) / t, (levels, step), past)
        return tokens

    errors = {solver: (solve(solver) - std * eps).abs().max().item() for solver in SOLVERS}
    assert all(map(math.isfinite, errors.values()))
    assert errors["unipc"] < errors["euler"] / 3


def test_half_the_steps_are_enough_for_the_result_of_euler() -> None:
    """The velocity of a mixture of Gaussians is known exactly; the noise levels are those of our models."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    start = torch.randn(64, 8, generator=generator, dtype=torch.float64)

    def solve(solver: str, steps: int) -> torch.Tensor:
        levels = spaced(steps, 1024, Shift(1.0), smallest=SMALLEST_TIMESTEP).levels
        x, past = start, None
        for step, t in enumerate(levels[:-1]):
            variance = (1 - t) ** 2 * 0.3**2 + t**2
            away = x[:, None] - (1 - t) * means
            weights = torch.softmax(-away.square().sum(-1) / (2 * variance), dim=1)[..., None]
            clean = (weights * (means + (1 - t) * 0.3**2 / variance * away)).sum(1)
            x, past = SOLVERS[solver](x, (x - clean) / t, (levels, step), past)
        return x

    exact = solve("unipc", 400)
    error = {(solver, n): (solve(solver, n) - exact).norm() for solver in SOLVERS for n in (20, 40)}
    assert error["unipc", 20] < error["dpmpp_2m", 20] < error["euler", 40]
    assert error["unipc", 40] < error["unipc", 20] / 2, "of second order"


def test_experts_change_at_the_boundary() -> None:
    for solver in SOLVERS:
        schedule = as_published(solver, 8, 5.0, n_train=1000, boundary=0.875)
        low = [timestep < 0.875 for timestep in schedule.timesteps]
        assert list(schedule.experts) == low
        assert {True, False} == set(low)
