"""Our engine makes from Wan's weights what a loop over diffusers makes."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from model.wan_reference import Layout, Sample, layout, relative
from synthetic import tiny_card
from vitascope.feed.patches import grid_of, unpatchify
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work, begin
from vitascope.generate.request import Request
from vitascope.model.formats.adapters import layer_shapes
from vitascope.model.formats.card import ModelCard
from vitascope.model.lora import Merged, Pair, PerSegment

LAYOUTS = {
    "2.1": layout(depth=2, width=36, heads=3, ffn=80),
    "2.2 5B": layout(48, depth=2, width=80, heads=2, ffn=150),
}
SHIFT = 5.0
SIZES = {"video": (3, 8, 12), "tall": (5, 12, 4), "picture": (1, 6, 6)}


def card_of(of: Layout) -> ModelCard:
    changes = {
        "model": of.settings,
        "channels": of.channels,
        "text_dim": of.text_dim,
        "timestep_shift": SHIFT,
    }
    return tiny_card().model_copy(update=changes)


def work_of(card: ModelCard, request: Request, size: tuple[int, int, int], given: int) -> Work:
    """A request of a latent size, the first `given` frames of which are conditioning frames."""
    generator = torch.Generator().manual_seed(prod(size))
    latent = torch.randn(*size, card.channels, generator=generator)
    texts = [torch.randn(n, card.text_dim, generator=generator) for n in (9, 1)]
    return begin(request, Canvas(latent, torch.arange(size[0]) < given), (texts[0], texts[1]), card=card)


def by_diffusers(work: Work, model: Any, patch: int) -> torch.Tensor:
    """The final latent (T, h, w, C) of diffusers' network and Euler scheduler, branch by branch."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)  # the levels are shifted already
    scheduler.set_timesteps(sigmas=list(work.schedule.timesteps))
    latent = unpatchify(work.tokens, work.grid, patch)
    clean = latent.clone()
    for t in scheduler.timesteps:
        level = torch.where(work.given, 0.0, float(t) / 1000)
        told, untold = (
            unpatchify(Sample(latent, level, text, patch).through(model), work.grid, patch)
            for text in (work.text, work.negative)
        )
        velocity = untold + work.scale * (told - untold) if work.scale != 1 else told
        latent = scheduler.step(velocity, t, latent).prev_sample
        latent[work.given] = clean[work.given]
    return latent


@pytest.mark.parametrize("guidance", [1, 5])
@pytest.mark.parametrize(("of", "given"), [("2.1", 0), ("2.2 5B", 0), ("2.2 5B", 1)])
def test_a_mixed_pack_gives_what_diffusers_gives_one_by_one(
    of: str, given: int, guidance: int, request_of: Callable[..., Request]
) -> None:
    ours, theirs = LAYOUTS[of].pair()
    card, patch = card_of(LAYOUTS[of]), LAYOUTS[of].settings.patch
    works = [
        work_of(card, request_of(steps=steps, guidance=guidance, seed=steps), size, given * (size[0] > 1))
        for steps, size in zip((4, 6, 5), SIZES.values(), strict=True)
    ]
    denoiser = Denoiser(Experts([ours.eval()]), token_budget=4096)
    try:
        done = [future.result(60) for future in [denoiser.submit(work) for work in works]]
    finally:
        denoiser.close()
    for work, found in zip(works, done, strict=True):
        assert work.grid == grid_of(unpatchify(found.tokens, found.grid, patch).shape[:3], patch)
        with torch.no_grad():
            expected = by_diffusers(work, theirs, patch)
        assert relative(unpatchify(found.tokens, found.grid, patch), expected) < 1e-4
        assert relative(expected, unpatchify(work.tokens, work.grid, patch)) > 0.05


def test_levels_are_those_of_wan_whatever_the_size(request_of: Callable[..., Request]) -> None:
    card = card_of(LAYOUTS["2.1"])
    expected = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in (1, 0.75, 0.5, 0.25, 0)]
    for size in SIZES.values():
        work = work_of(card, request_of(steps=4), size, 0)
        assert work.schedule.levels == pytest.approx(expected)


def test_requests_with_different_adapters_share_a_pass(request_of: Callable[..., Request]) -> None:
    """Each result is that of a model with the request's adapter merged, alone."""
    of = LAYOUTS["2.1"]
    ours, theirs = of.pair()
    card, base = card_of(of), {name: weight.clone() for name, weight in theirs.state_dict().items()}
    adapters = {name: adapter_of(of, seed) for seed, name in enumerate(("one", "two"))}
    asked = [("one", 1.0), (None, 1.0), ("two", -0.5)]
    works = [
        work_of(card, request_of(steps=3, seed=n, adapter=name, adapter_weight=weight), size, 0)
        for n, ((name, weight), size) in enumerate(zip(asked, SIZES.values(), strict=True))
    ]
    experts = Experts([ours.eval()], adapters=[PerSegment(ours, adapters)])
    denoiser = Denoiser(experts, token_budget=4096)
    try:
        done = [future.result(60) for future in [denoiser.submit(work) for work in works]]
    finally:
        denoiser.close()
    for work, found, (name, weight) in zip(works, done, asked, strict=True):
        pairs = {
            layer: replace(pair, scale=pair.scale * weight) for layer, pair in adapters.get(name, {}).items()
        }
        theirs.load_state_dict(dict(Merged(base, pairs)))
        patch = of.settings.patch
        with torch.no_grad():
            expected = by_diffusers(work, theirs, patch)
        assert relative(unpatchify(found.tokens, found.grid, patch), expected) < 1e-4
        if name:
            theirs.load_state_dict(base)
            with torch.no_grad():
                assert relative(by_diffusers(work, theirs, patch), expected) > 1e-2


def adapter_of(of: Layout, seed: int) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(seed)
    layers = layer_shapes(of.settings, of.channels, of.text_dim)
    return {
        name: Pair(
            torch.randn(2, n_in, generator=generator) / n_in**0.5,
            torch.randn(n_out, 2, generator=generator) / 2**0.5,
            scale=0.5,
        )
        for name, (n_out, n_in) in layers.items()
        if name.startswith("blocks.")
    }
