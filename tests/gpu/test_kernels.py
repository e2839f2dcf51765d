"""The GPU's kernels against the CPU's results."""

from typing import cast

import pytest
import torch

from vitascope.feed.packs import Segment, collate
from vitascope.model import flow
from vitascope.model.attention import Boundaries, attention
from vitascope.model.networks import NETWORKS, build
from vitascope.model.settings import ModelSettings

pytestmark = pytest.mark.gpu
TOLERANCE = 2e-2
"""bfloat16 keeps 8 bits: inputs around 1 are off by up to 0.4 %, and sums of them by a little more."""


def test_variable_length_attention_is_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, text_lengths = [70, 3, 257], [5, 1, 40]
    q = torch.randn(sum(lengths), 4, 64, generator=generator).bfloat16()
    k, v = (torch.randn(sum(text_lengths), 4, 64, generator=generator).bfloat16() for _ in range(2))
    results = []
    for device in ("cpu", "cuda"):
        of = tuple(Boundaries.of(n, torch.device(device)) for n in (lengths, text_lengths))
        parts = (x.to(device) for x in (q, k, v))
        results.append(attention(*parts, cast(tuple[Boundaries, Boundaries], of)).float().cpu())
    torch.testing.assert_close(*results, atol=TOLERANCE, rtol=TOLERANCE)


def test_keys_that_count_often_are_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths, text_lengths, repeats = [70, 3, 257], [5, 1, 40], [508, 512, 0]
    drawn = [torch.randn(sum(n), 4, 64, generator=generator) for n in (lengths, text_lengths, text_lengths)]
    results = []
    for device in ("cpu", "cuda"):
        queries = Boundaries.of(lengths, torch.device(device))
        keys = Boundaries.of(text_lengths, torch.device(device), repeats)
        q, k, v = (x.bfloat16().to(device).requires_grad_() for x in drawn)
        out = attention(q, k, v, (queries, keys))
        out.float().square().sum().backward()
        results.append([x.detach().float().cpu() for x in (out, q.grad, k.grad, v.grad) if x is not None])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_models_loss_and_gradient_are_the_cpus(network: str) -> None:
    torch.manual_seed(0)
    model = build(ModelSettings(network=network, depth=2, width=128, heads=2), 4, 32)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    segments = [
        Segment(torch.randn(n, 16), (t, h, w), torch.full((t,), 0.5), torch.randn(7, 32), noise_key=n)
        for n, (t, h, w) in [(24, (1, 4, 6)), (36, (3, 3, 4))]
    ]
    pack = collate(segments)
    noise = flow.noise_of(pack)  # noise depends on the kind of device: the CPU's is used for both
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        here = model.to(device=device, dtype=dtype)
        noised = flow.interpolate(pack.tokens, noise, pack.timesteps[pack.frame_of_token])
        error = here(pack.with_tokens(noised).to(device)).float().cpu() - (noise - pack.tokens)
        loss = error.square().mean()
        loss.backward()
        gradient = torch.cat(
            [p.grad.float().cpu().flatten() for p in here.parameters() if p.grad is not None]
        )
        found.append((loss.detach(), gradient / gradient.norm()))
        here.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0], rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.dot(found[0][1], found[1][1]) > 0.99
