"""Steps without a pass: few, right, and nobody else's business."""

import dataclasses
import threading
from collections.abc import Callable, Sequence

import pytest
import torch

from vitascope.feed.packs import Pack
from vitascope.generate.conditions import Canvas, blank
from vitascope.generate.denoise import reuse
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, advance, begin, segments
from vitascope.generate.denoise.solvers import SOLVERS
from vitascope.generate.request import Request
from vitascope.model.dit import DiT
from vitascope.model.formats.card import ModelCard

Make = Callable[..., Work]
Velocity = Callable[[Work], torch.Tensor]


@pytest.fixture
def work_of(card: ModelCard, request_of: Callable[..., Request]) -> Make:
    def make(*, canvas: Canvas | None = None, **fields: object) -> Work:
        request = request_of(**fields)
        text = torch.ones(3, card.text_dim), torch.zeros(0, card.text_dim)
        return begin(request, canvas or blank(request, card.patching, card.channels), text, card=card)

    return make


def solve(work: Work, velocity: Velocity) -> tuple[Work, list[int]]:
    """To the end with one velocity for all segments; and the steps that took a pass."""
    passes = []
    while work.load.n_passes:
        before, passes = work.load, [*passes, work.step]
        work = advance(work, [velocity(work) for _ in segments(work)])
        assert work.load.n_passes < before.n_passes, "the scheduler relies on it"
        assert work.load.n_tokens <= before.n_tokens
    return work, passes


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_flow_needs_two_passes_and_then_one_in_four(work_of: Make, solver: str) -> None:
    work = work_of(steps=12, solver=solver, quality="fast")
    eps, target = work.tokens, torch.randn_like(work.tokens)
    done, passes = solve(work, lambda _: eps - target)
    assert passes == [0, 1, 5, 9, 11]
    torch.testing.assert_close(done.tokens, target, atol=1e-5, rtol=0)


def test_exact_takes_every_step(work_of: Make) -> None:
    work = work_of(steps=12)
    done, passes = solve(work, lambda w: torch.ones_like(w.tokens))
    assert passes == list(range(12))
    assert done.recent is None


def test_a_velocity_that_changes_evenly_is_continued_exactly(work_of: Make) -> None:
    """In passes that exact takes and fast does not, both have the same velocity."""
    fast, exact = (work_of(steps=40, quality=quality, solver="euler") for quality in ("fast", "exact"))
    start, change = torch.randn_like(fast.tokens), torch.randn_like(fast.tokens)

    def even(work: Work) -> torch.Tensor:
        return start + work.level * change

    (quick, passes), (slow, _) = solve(fast, even), solve(exact, even)
    assert len(passes) < 20
    torch.testing.assert_close(quick.tokens, slow.tokens, atol=1e-5, rtol=0)


def test_a_velocity_that_changes_much_is_always_computed(work_of: Make) -> None:
    _, passes = solve(work_of(steps=9, quality="fast"), lambda w: torch.randn_like(w.tokens))
    assert passes == list(range(9))


def test_fast_leaves_out_more_passes_than_high(work_of: Make) -> None:
    n_passes = {}
    for quality in reuse.MOST_CHANGE:
        work = work_of(steps=60, quality=quality)
        _, passes = solve(work, lambda w: torch.ones_like(w.tokens) * (2 + torch.tensor(4 * w.level).sin()))
        n_passes[quality] = len(passes)
    assert n_passes["exact"] > n_passes["high"] > n_passes["fast"]


def test_a_change_of_expert_or_of_guidance_is_computed(work_of: Make) -> None:
    work = work_of(steps=12, quality="fast", solver="euler", guidance=3)
    experts = (0,) * 4 + (1,) * 8
    switched = dataclasses.replace(
        work, schedule=dataclasses.replace(work.schedule, experts=experts), guidance=(3, 3)
    )
    assert solve(switched, lambda w: torch.ones_like(w.tokens))[1] == [0, 1, 4, 5, 9, 11]
    levels = work.schedule.levels
    guided = dataclasses.replace(work, interval=((levels[5] + levels[6]) / 2, 1.0))
    assert [len(segments(dataclasses.replace(guided, step=step))) for step in (5, 6)] == [2, 1]
    assert solve(guided, lambda w: torch.ones_like(w.tokens))[1] == [0, 1, 5, 6, 7, 11]


def test_conditioning_frames_do_not_decide(card: ModelCard, work_of: Make) -> None:
    latent = torch.zeros(3, 6, 8, card.channels)
    work = work_of(canvas=Canvas(latent, torch.tensor([True, False, False])), steps=12, quality="fast")
    given = torch.arange(len(work.tokens)) < len(work.tokens) // 3

    def velocity(now: Work) -> torch.Tensor:
        return torch.where(given[:, None], torch.randn_like(now.tokens), 1.0)

    assert solve(work, velocity)[1] == [0, 1, 5, 9, 11]


class Gated:
    """A network that waits for the gate, and notes the segments of each pass."""

    def __init__(self, network: Callable[[Pack], torch.Tensor]) -> None:
        self.network, self.gate, self.passes = network, threading.Event(), list[int]()

    def __call__(self, pack: Pack) -> torch.Tensor:
        assert self.gate.wait(60)
        self.passes.append(pack.n_segments)
        return self.network(pack)


def test_others_use_the_room_of_passes_that_are_left_out(work_of: Make) -> None:
    network = Gated(lambda pack: torch.ones_like(pack.tokens))
    denoiser = Denoiser(Experts([network]), token_budget=72)
    small = {"guidance": 1, "steps": 12}  # 36 patches
    futures = [denoiser.submit(work_of(**small, quality="fast", seed=n)) for n in range(3)]
    futures.append(denoiser.submit(work_of(**small)))
    network.gate.set()
    assert all(future.result(60).load.n_passes == 0 for future in futures)
    denoiser.close()
    assert sum(network.passes) == 3 * 5 + 12
    assert len(network.passes) <= 1 + 5 + 12  # of 24 without; the first one may be alone in its first pass


def together(experts: Experts, works: Sequence[Work]) -> tuple[list[Work], list[list[int]]]:
    """The requests in shared passes from the beginning, and who was in each of them."""
    works, packs = list(works), []
    with torch.inference_mode():
        while pack := [i for i, work in enumerate(works) if work.load.n_passes]:
            for i, velocities in zip(pack, experts.velocities([works[i] for i in pack]), strict=True):
                works[i] = advance(works[i], velocities)
            packs.append(pack)
    return works, packs


@pytest.mark.parametrize("quality", ["high", "fast"])
def test_an_exact_request_is_not_touched_by_its_neighbour(model: DiT, work_of: Make, quality: str) -> None:
    """Bit for bit what it gets next to an exact one that is in the same passes."""
    experts = Experts([lambda pack: 1 + 0.01 * model(pack)])
    exact, neighbour = work_of(steps=20, seed=1), work_of(steps=40, quality=quality, seed=2, width=96)
    (found, skipping), packs = together(experts, [exact, neighbour])
    n_passes = sum(1 in pack for pack in packs)
    assert n_passes < 40
    assert skipping.load.n_passes == 0
    (expected, _), same = together(experts, [exact, work_of(steps=n_passes, seed=3, width=96)])
    assert packs == same
    assert torch.equal(found.tokens, expected.tokens)
