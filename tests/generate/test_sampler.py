"""One request from noise to latent."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from vitascope.feed.packs import collate
from vitascope.feed.patches import patchify, unpatchify
from vitascope.generate.conditions import Canvas, blank
from vitascope.generate.denoise.sampler import Work, advance, begin, segments
from vitascope.generate.denoise.schedule import Schedule, spaced
from vitascope.generate.denoise.solvers import SOLVERS
from vitascope.generate.request import Request
from vitascope.ledger import Rejected
from vitascope.model.dit import SMALLEST_TIMESTEP, velocity
from vitascope.model.flow import Shift
from vitascope.model.formats.card import ModelCard

Make = Callable[..., Request]


@pytest.fixture
def work_of(card: ModelCard, request_of: Make) -> Callable[..., Work]:
    def make(*, canvas: Canvas | None = None, **fields: object) -> Work:
        request = request_of(**fields)
        text = torch.ones(3, card.text_dim), torch.zeros(0, card.text_dim)
        return begin(request, canvas or blank(request, card.patching, card.channels), text, card=card)

    return make


def solve(work: Work, velocity: Callable[[Work], torch.Tensor]) -> tuple[Work, int]:
    """Steps to the end with one velocity for all segments; and the number of passes it took."""
    passes = 0
    while work.load.n_passes:
        work = advance(work, [velocity(work) for _ in segments(work)])
        passes += 1
    return work, passes


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_is_solved_exactly_in_as_many_passes_as_steps(
    work_of: Callable[..., Work], steps: int, solver: str
) -> None:
    work = work_of(steps=steps, solver=solver)
    target = torch.randn_like(work.tokens)
    eps = work.tokens
    done, passes = solve(work, lambda _: eps - target)
    torch.testing.assert_close(done.tokens, target, atol=1e-5, rtol=0)
    assert passes == steps


@pytest.mark.parametrize("solver", SOLVERS)
def test_given_frames_stay_as_they_are_to_the_last_bit(
    card: ModelCard, work_of: Callable[..., Work], solver: str
) -> None:
    latent = torch.randn(3, 6, 8, card.channels)
    work = work_of(canvas=Canvas(latent, torch.tensor([True, False, True])), steps=4, solver=solver)
    assert segments(work)[0].timesteps.tolist() == [0, 1, 0]
    done, _ = solve(work, lambda w: torch.randn_like(w.tokens))
    result = unpatchify(done.tokens, done.grid, 2)
    assert torch.equal(result[[0, 2]], latent[[0, 2]])
    assert not torch.isclose(result[1], latent[1]).any()


@pytest.mark.parametrize(("strength", "steps", "passes"), [(0.5, 10, 5), (0.29, 100, 29), (0.01, 10, 1)])
@pytest.mark.parametrize("solver", SOLVERS)
def test_with_strength_the_last_steps_are_taken_from_the_noised_source(
    card: ModelCard, work_of: Callable[..., Work], solver: str, strength: float, steps: int, passes: int
) -> None:
    source = torch.randn(3, 6, 8, card.channels)
    asked = {"mode": "video_to_video", "video": "a.mp4", "strength": strength}
    canvas = Canvas(source, torch.zeros(3, dtype=torch.bool))
    work = work_of(canvas=canvas, steps=steps, solver=solver, **asked)
    eps, whole = work_of(steps=steps, solver=solver).tokens, work_of(steps=steps, solver=solver).schedule
    level = whole.levels[steps - passes]
    assert work.schedule.levels == whole.levels[steps - passes :]
    clean = patchify(source, 2)
    torch.testing.assert_close(work.tokens, (1 - level) * clean + level * eps)
    done, n_passes = solve(work, lambda _: eps - clean)
    torch.testing.assert_close(done.tokens, clean, atol=1e-4, rtol=0)
    assert n_passes == passes == work.load.n_passes


@pytest.mark.parametrize("solver", SOLVERS)
def test_both_ends_of_a_loop_are_the_same_in_every_step(work_of: Callable[..., Work], solver: str) -> None:
    work = work_of(mode="loop", seconds=2, steps=4, solver=solver)
    while work.load.n_passes:
        latent = unpatchify(work.tokens, work.grid, 2)
        assert torch.equal(latent[-2:], latent[1:3])
        assert not torch.isclose(latent[3], latent[1]).any()
        work = advance(work, [torch.randn_like(work.tokens) for _ in segments(work)])
    assert torch.equal(unpatchify(work.tokens, work.grid, 2)[-2:], unpatchify(work.tokens, work.grid, 2)[1:3])


def test_what_is_the_same_moves_by_the_mean_of_its_velocities(work_of: Callable[..., Work]) -> None:
    work = work_of(mode="loop", seconds=1, steps=4, guidance=1)
    n = len(work.tokens) // 5
    velocity = torch.randn_like(work.tokens)
    first, second, *rest = (velocity[n * i : n * (i + 1)] for i in (1, 3, 0, 2, 4))
    delta = work.schedule.levels[1] - work.schedule.levels[0]
    moved = (advance(work, [velocity]).tokens - work.tokens) / delta
    torch.testing.assert_close(moved[n : 2 * n], (first + second) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved[2 * n : 3 * n], (rest[1] + rest[2]) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moved[:n], rest[0], atol=1e-5, rtol=1e-4)


def test_without_guidance_there_is_no_second_segment(work_of: Callable[..., Work]) -> None:
    plain, guided = work_of(guidance=1), work_of(guidance=4)
    assert [len(s.text) for s in segments(plain)] == [3]
    assert [len(s.text) for s in segments(guided)] == [3, 0]
    assert guided.load.n_tokens == 2 * plain.load.n_tokens


def test_guidance_extrapolates_from_the_second_segment(work_of: Callable[..., Work]) -> None:
    work = dataclasses.replace(work_of(guidance=3), schedule=Schedule.of((1.0, 0.5)))
    one = torch.ones_like(work.tokens)
    stepped = advance(work, [2 * one, one])
    torch.testing.assert_close(stepped.tokens, work.tokens - 0.5 * (1 + 3 * (2 - 1)))


def test_noise_depends_on_the_seed_alone(work_of: Callable[..., Work]) -> None:
    assert torch.equal(work_of(seed=1).tokens, work_of(seed=1, prompt="a dog", steps=5, custom_id="b").tokens)
    assert not torch.equal(work_of(seed=1).tokens, work_of(seed=2).tokens)


def test_longer_samples_stay_longer_in_the_noise() -> None:
    assert spaced(4, 1024, Shift(1.0), smallest=SMALLEST_TIMESTEP).levels == (1.0, 0.75, 0.5, 0.25, 0.0)
    long = spaced(4, 4096, Shift(1.0), smallest=SMALLEST_TIMESTEP).levels
    assert (long[0], long[-1]) == (1.0, 0.0)
    assert all(a > b for a, b in zip(long[1:-1], (0.75, 0.5, 0.25), strict=True))


@pytest.mark.parametrize(("std", "least"), [(1.0, 0.99), (0.1, 0.87), (0.03, 0.48)])
def test_fine_detail_is_kept_down_to_the_floor_that_is_documented(
    work_of: Callable[..., Work], std: float, least: float
) -> None:
    """The ideal model of Gaussian data predicts x s² (1 - t) / ((1 - t)² s² + t²) from x at level t."""
    work = dataclasses.replace(work_of(), schedule=spaced(1000, 1024, Shift(1.0), smallest=SMALLEST_TIMESTEP))
    eps = work.tokens

    def ideal(now: Work) -> torch.Tensor:
        t = now.schedule.levels[now.step]
        expected = now.tokens * std**2 * (1 - t) / ((1 - t) ** 2 * std**2 + t**2)
        return velocity(collate(segments(now)[:1]), expected)

    done, _ = solve(work, ideal)
    kept = (done.tokens.std() / eps.std() / std).item()
    t = SMALLEST_TIMESTEP
    assert least < kept <= 1.001
    assert kept == pytest.approx((1 - t) * std / ((1 - t) ** 2 * std**2 + t**2) ** 0.5, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 30, 300])
def test_a_perfect_model_leaves_no_noise(work_of: Callable[..., Work], steps: int) -> None:
    work = work_of(steps=steps)
    work = dataclasses.replace(work, schedule=spaced(steps, 1024, Shift(1.0), smallest=SMALLEST_TIMESTEP))
    assert len(work.schedule.timesteps) == steps
    target = torch.randn_like(work.tokens)

    def of_the_model(now: Work) -> torch.Tensor:
        return velocity(collate(segments(now)[:1]), target)

    done, _ = solve(work, of_the_model)
    torch.testing.assert_close(done.tokens, target, atol=1e-4, rtol=0)


def test_guidance_is_left_out_outside_of_its_interval(work_of: Callable[..., Work]) -> None:
    whole, inner = work_of(steps=10), work_of(steps=10, guidance_interval=[0.3, 0.75])
    levels = whole.schedule.levels[:-1]
    expected = [2 if 0.3 <= level <= 0.75 else 1 for level in levels]
    assert 2 < sum(n == 2 for n in expected) < 8
    at = [dataclasses.replace(inner, step=step) for step in range(10)]
    assert [len(segments(work)) for work in at] == expected
    last = max(step for step, n in enumerate(expected) if n == 2)
    plain = work_of(guidance=1).load.n_tokens
    assert [work.load.n_tokens // plain for work in at] == [2] * (last + 1) + [1] * (9 - last)
    assert all(len(segments(dataclasses.replace(whole, step=step))) == 2 for step in range(10))


def test_an_interval_that_no_step_is_in_is_refused(work_of: Callable[..., Work]) -> None:
    with pytest.raises(Rejected, match=r"none is in guidance_interval \[0.93, 0.97\]; widen it"):
        work_of(steps=2, guidance_interval=[0.93, 0.97])
    assert work_of(steps=2, guidance_interval=[0.93, 0.97], guidance=1).load.n_passes == 2


@pytest.mark.parametrize("n_tokens", [1, 7, 36, 1000, 1024, 77_777])
def test_the_first_step_is_in_the_whole_interval_however_it_is_rounded(n_tokens: int) -> None:
    schedule = spaced(5, n_tokens, Shift(1.7), smallest=SMALLEST_TIMESTEP)
    assert all(schedule.is_within(step, (0.0, 1.0)) for step in range(5))
