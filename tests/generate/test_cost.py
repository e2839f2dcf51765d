"""The cost of a request against the passes that the engine really runs."""

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any

import pytest
import torch

from vitascope.generate.chunks import alone, chunks_of
from vitascope.generate.conditions import blank
from vitascope.generate.cost import cost
from vitascope.generate.denoise.sampler import advance, begin, segments
from vitascope.generate.denoise.sampling import OURS, Sampling
from vitascope.generate.opened import Maker, Opened
from vitascope.generate.request import Request
from vitascope.model.formats.card import ModelCard
from vitascope.model.networks import cost_of

TWO_EXPERTS = Sampling("unipc", shift=3.0, n_train=1000, boundary=0.875)


def passed(request: Request, card: ModelCard, sampling: Sampling) -> float:
    """The sum over all passes of what their segments cost, in patches of a tiny image."""
    network = cost_of(card.model, card.channels, card.text_dim)
    text = torch.ones(3, card.text_dim), torch.zeros(0, card.text_dim)
    work = begin(request, blank(request, card.patching, card.channels), text, card=card, sampling=sampling)
    total = 0.0
    while work.load.n_passes:
        parts = segments(work)
        total += sum(float(network.of(prod(part.grid), 0)) for part in parts) / network.per_token
        work = advance(work, [torch.zeros_like(part.tokens) for part in parts])
    return total


def test_a_long_video_costs_what_its_chunks_do(card: ModelCard, request_of: Callable[..., Request]) -> None:
    network = cost_of(card.model, card.channels, card.text_dim)
    long = request_of(seconds=60, chunk_frames=33)
    parts = [alone(long, chunk, card.patching) for chunk in chunks_of(long, card.patching)]
    expected = sum(cost(part, card.patching, OURS, network) for part in parts)
    assert cost(long, card.patching, OURS, network) == pytest.approx(expected)
    whole = long.model_copy(update={"chunk_frames": None})
    assert expected < cost(whole, card.patching, OURS, network) * 2


@pytest.mark.parametrize("sampling", [OURS, TWO_EXPERTS])
@pytest.mark.parametrize(
    "fields",
    [
        {"guidance": 1},
        {"guidance": 4, "steps": 7},
        {"width": 16, "height": 16, "seconds": 0, "steps": 3},
        {"guidance": 1, "guidance_2": 3, "shift": 5.0, "solver": "unipc"},
        {"guidance": 3, "guidance_2": 1, "shift": 5.0, "solver": "unipc"},
    ],
)
def test_it_is_the_sum_over_the_passes(
    card: ModelCard, request_of: Callable[..., Request], sampling: Sampling, fields: dict[str, Any]
) -> None:
    own = {key: value for key, value in fields.items() if key != "guidance_2"}
    request = request_of(**own)
    if sampling.boundary:
        request = request.model_copy(update={"guidance_2": fields.get("guidance_2")})
    network = cost_of(card.model, card.channels, card.text_dim)
    expected = passed(request, card, sampling)
    assert cost(request, card.patching, sampling, network) == pytest.approx(expected)
    opened = Opened(card, Maker("/model", "m", 7, "tiny"), sampling)
    assert opened.cost(request) == pytest.approx(expected)


def test_it_grows_faster_than_the_patches(card: ModelCard, request_of: Callable[..., Request]) -> None:
    network = cost_of(card.model, card.channels, card.text_dim)
    sizes = [request_of(width=side, height=side, seconds=0, steps=1, guidance=1) for side in (16, 64, 256)]
    costs = [cost(request, card.patching, OURS, network) for request in sizes]
    assert costs[0] == pytest.approx(1, rel=0.01)  # one patch in one pass
    assert all(later > 16 * earlier for earlier, later in pairwise(costs))
