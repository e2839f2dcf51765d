"""The objective: sampling, loss, and weights."""

import numpy as np
import pytest
import torch

from vitascope.feed.packs import Pack, Segment, collate, idle
from vitascope.model import flow

DRAWS = flow.Draws(seed=3, text_dropout=0.2, shift=flow.Shift(1.0))
GRID = (5, 4, 4)


def test_a_draw_follows_from_seed_epoch_and_sample() -> None:
    first, again = DRAWS(7, 2, GRID), DRAWS(7, 2, GRID)
    assert (first.noise_key, first.drop_text) == (again.noise_key, again.drop_text)
    assert np.array_equal(first.timesteps, again.timesteps)
    others = [DRAWS(8, 2, GRID), DRAWS(7, 3, GRID), flow.Draws(4, 0.2, DRAWS.shift)(7, 2, GRID)]
    assert len({first.noise_key, *(other.noise_key for other in others)}) == 4


def test_captions_are_dropped_as_often_as_asked() -> None:
    shares = [
        np.mean([flow.Draws(0, p, DRAWS.shift)(i, 0, GRID).drop_text for i in range(3000)])
        for p in (0.0, 0.2)
    ]
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.2, abs=0.03)


def test_every_conditioning_mode_is_drawn() -> None:
    made = [DRAWS(i, 0, GRID).timesteps > 0 for i in range(2000)]
    assert all(mask.any() for mask in made)
    seen = {tuple(mask.tolist()) for mask in made}
    assert (True,) * 5 in seen  # text to video
    assert (False, True, True, True, True) in seen  # image to video
    assert (False, False, True, True, True) in seen  # extension forwards
    assert (True, True, True, True, False) in seen  # extension backwards
    assert (False, True, True, True, False) in seen  # joining two
    assert np.mean([mask.all() for mask in made]) == pytest.approx(0.5, abs=0.05)


def test_an_image_is_always_made_whole() -> None:
    assert all(DRAWS(i, 0, (1, 4, 4)).timesteps[0] > 0 for i in range(200))


def test_longer_samples_are_trained_at_more_noise() -> None:
    def mean(grid: tuple[int, int, int]) -> float:
        levels = [DRAWS(i, 0, grid).timesteps.max() for i in range(1000)]
        return float(np.mean(levels))

    assert mean((1, 4, 4)) < mean((1, 32, 32)) < mean((16, 32, 32))
    assert mean((1, 32, 32)) == pytest.approx(0.5, abs=0.03)  # no shift at the reference length


@pytest.mark.parametrize("n_tokens", [16, 1024, 100_000])
def test_shifting_keeps_the_ends_and_the_order(n_tokens: int) -> None:
    levels = np.linspace(0, 1, 11)
    shifted = flow.Shift(3.0).apply(levels, n_tokens)
    assert shifted[0] == 0
    assert shifted[-1] == pytest.approx(1)
    assert (np.diff(shifted) > 0).all()
    assert flow.Shift(3.0).undo(shifted, n_tokens) == pytest.approx(levels)


def test_a_shift_that_does_not_grow_is_that_of_wan_at_every_size() -> None:
    levels = np.linspace(0, 1, 11)
    expected = 5 * levels / (1 + 4 * levels)
    for n_tokens in (16, 1024, 75_600):
        assert flow.Shift(5.0, grows=False).apply(levels, n_tokens) == pytest.approx(expected)
    assert not np.allclose(flow.Shift(5.0).apply(levels, 16), expected)


def make_pack(timesteps: list[list[float]]) -> Pack:
    segments = [
        Segment(
            torch.randn(4 * len(levels), 6),
            (len(levels), 2, 2),
            torch.tensor(levels),
            torch.zeros(0, 4),
            i,
            50 + i,
        )
        for i, levels in enumerate(timesteps)
    ]
    return collate(segments)


def perfect(pack: Pack, clean: torch.Tensor) -> torch.Tensor:
    return flow.noise_of(pack) - clean


def test_the_loss_of_the_true_velocity_is_zero() -> None:
    pack = make_pack([[0.3, 0.7], [0.0, 0.5, 0.9]])
    assert flow.loss(lambda noised: perfect(noised, pack.tokens), pack) == 0


def test_given_frames_stay_clean_and_carry_no_loss() -> None:
    pack = make_pack([[0.0, 0.5, 0.0]])

    def wrong_on_given(noised: Pack) -> torch.Tensor:
        assert torch.equal(noised.tokens[:4], pack.tokens[:4])
        velocity = perfect(noised, pack.tokens)
        velocity[:4] += 100
        return velocity

    assert flow.loss(wrong_on_given, pack) == 0


def test_a_sample_weighs_its_tokens_whatever_is_given() -> None:
    def off_by_one(pack: Pack) -> torch.Tensor:
        return perfect(pack, clean) + 1

    for levels in ([[0.5, 0.5, 0.5]], [[0.0, 0.0, 0.5]], [[0.5], [0.0, 0.8]]):
        pack = make_pack(levels)
        clean = pack.tokens
        assert flow.loss(off_by_one, pack).item() == pytest.approx(pack.n_tokens)


def test_the_loss_of_a_pack_is_the_sum_over_its_samples() -> None:
    def model(pack: Pack) -> torch.Tensor:
        return torch.sin(3 * pack.tokens)

    pack = make_pack([[0.3, 0.7], [0.0, 0.5, 0.9], [0.2]])
    alone = [make_one(pack, i) for i in range(3)]
    assert flow.loss(model, pack).item() == pytest.approx(
        sum(flow.loss(model, one).item() for one in alone), rel=1e-6
    )


def make_one(pack: Pack, number: int) -> Pack:
    grid = tuple(pack.grids[number].tolist())
    timesteps = pack.timesteps[pack.segment_of_frame == number]
    tokens = pack.split(pack.tokens)[number]
    return collate(
        [Segment(tokens, grid, timesteps, torch.zeros(0, 4), number, int(pack.noise_keys[number]))]
    )


def test_an_idle_pack_has_no_loss_but_a_gradient() -> None:
    weight = torch.ones(6, requires_grad=True)
    loss = flow.loss(lambda pack: pack.tokens * weight, idle(6, 4))
    loss.backward()
    assert loss == 0
    assert torch.equal(weight.grad, torch.zeros(6))
