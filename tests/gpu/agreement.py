"""How far a device's results are from the CPU's: for the tests here and for jobs/bench/gpu.py.

Every error is relative to the largest expected value. Nothing here needs pytest, and each check also runs
with the CPU as the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from vitascope.encode.codecs import Codec, make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.feed.packs import Segment, collate
from vitascope.model import flow
from vitascope.model.attention import Boundaries, attention
from vitascope.model.networks import NETWORKS, build
from vitascope.model.settings import ModelSettings

TOLERANCE = 2e-2
"""bfloat16 keeps 8 bits: inputs around 1 are off by up to 0.4 %, and sums of them by a little more."""
CPU = torch.device("cpu")
LENGTHS, TEXT_LENGTHS, REPEATS = [70, 3, 257], [5, 1, 40], [508, 512, 0]
WIDE = ModelSettings(network="wan", depth=2, width=1536, heads=12, ffn=8960)
"""Two blocks of Wan 2.1 1.3B, which has 16 channels and text states of 4096."""


@dataclass(frozen=True)
class Agreement:
    """The largest relative error of a check, and the largest one allowed."""

    error: float
    allowed: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether the error is a number within the allowed."""
        return self.error <= self.allowed


def variable_length_attention(device: torch.device) -> Agreement:
    """Three segments, each relative to its own largest value."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(sum(LENGTHS), 4, 64, generator=generator).bfloat16()
    k, v = (torch.randn(sum(TEXT_LENGTHS), 4, 64, generator=generator).bfloat16() for _ in range(2))
    results = []
    for here in (CPU, device):
        of = tuple(Boundaries.of(n, here) for n in (LENGTHS, TEXT_LENGTHS))
        parts = (x.to(here) for x in (q, k, v))
        results.append(attention(*parts, cast(tuple[Boundaries, Boundaries], of)).float().cpu())
    expected, found = (x.split(LENGTHS) for x in results)
    return Agreement(max(map(relative, found, expected)))


def repeated_keys(device: torch.device) -> Agreement:
    """Keys that count often, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    sizes = [LENGTHS, TEXT_LENGTHS, TEXT_LENGTHS]
    inputs = [torch.randn(sum(n), 4, 64, generator=generator) for n in sizes]
    results = []
    for here in (CPU, device):
        of = Boundaries.of(LENGTHS, here), Boundaries.of(TEXT_LENGTHS, here, REPEATS)
        q, k, v = (x.bfloat16().to(here).requires_grad_() for x in inputs)
        out = attention(q, k, v, of)
        out.float().square().sum().backward()
        results.append([x.detach().float().cpu() for x in (out, q.grad, k.grad, v.grad) if x is not None])
    expected, found = results
    return Agreement(max(map(relative, found, expected)))


def loss_and_gradient(device: torch.device, settings: ModelSettings, text_dim: int = 32) -> Agreement:
    """A network in bf16 on the device, in float32 on the CPU.

    The error is that of the loss or, if larger, a seventh of the sine of the angle between the gradients: the
    cosine is above 0.99.
    """
    torch.manual_seed(0)
    model = build(settings, 4, text_dim)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    segments = [
        Segment(torch.randn(n, 16), (t, h, w), torch.full((t,), 0.5), torch.randn(7, text_dim), noise_key=n)
        for n, (t, h, w) in [(24, (1, 4, 6)), (36, (3, 3, 4))]
    ]
    pack = collate(segments)
    noise = flow.noise_of(pack)  # noise depends on the kind of device: the CPU's is used for both
    found = []
    for here, dtype in ((CPU, torch.float32), (device, torch.bfloat16)):
        model.to(device=here, dtype=dtype).zero_grad()
        noised = flow.interpolate(pack.tokens, noise, pack.timesteps[pack.frame_of_token])
        error = model(pack.with_tokens(noised).to(here)).float().cpu() - (noise - pack.tokens)
        loss = error.square().mean()
        loss.backward()
        gradients = (p.grad.float().cpu().flatten() for p in model.parameters() if p.grad is not None)
        found.append((loss.detach(), torch.cat(list(gradients))))
    (loss, gradient), (loss_here, gradient_here) = found
    cosine = torch.nn.functional.cosine_similarity(gradient.double(), gradient_here.double(), dim=0)
    sine = float((1 - cosine.square()).clamp(min=0).sqrt())
    return Agreement(max(relative(loss_here, loss), sine / 7))


def autoencoder(device: torch.device, folder: Path, precision: str, side: int = 64) -> dict[str, Agreement]:
    """Latents, frames and memory of the autoencoder in a folder, by what is compared; `side` in pixels.

    Latents, whose std is about 1, differ by at most the error, frames by that fraction of 255. Memory is the
    growth of the peak from 17 to 129 frames, without the latents and their sums, in MiB; on a GPU only.
    """
    settings = {"codec": "diffusers", "codec_folder": str(folder)}
    exact = make_codec(EncodeSettings(**settings))
    codec = make_codec(EncodeSettings(**settings, codec_precision=precision), device)
    frames = torch.randint(0, 256, (side // 4 + 1, side, side, 3), dtype=torch.uint8)
    latents = exact.encode(frames)
    found = {"latents": Agreement(float((codec.encode(frames.to(device)).cpu() - latents).abs().max()))}
    groups = zip(codec.decode(latents), exact.decode(latents), strict=True)
    most = max(int((there.cpu().int() - here.int()).abs().max()) for there, here in groups)
    found["frames"] = Agreement(most / 255, 4 / 255)
    if device.type == "cuda":
        growth = -_peak(codec, 17, side) + _peak(codec, 129, side)
        found["memory_growth_mib"] = Agreement(growth / (1 << 20), 1.0)
    return found


def _peak(codec: Codec, n_frames: int, side: int) -> int:
    """Bytes on the GPU for a video that is coded there and back, without the latents and their sums."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    coded = codec.encode(torch.zeros(n_frames, side, side, 3, dtype=torch.uint8))
    assert sum(len(group) for group in codec.decode(coded)) == n_frames
    return torch.cuda.max_memory_allocated() - before - 6 * coded.nbytes


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite if one is not finite."""
    error = float((found - expected).abs().max() / expected.abs().max())
    return error if error < float("inf") else float("inf")  # also for not a number


CHECKS: dict[str, Callable[[torch.device], Agreement]] = {
    "variable_length_attention": variable_length_attention,
    "repeated_keys": repeated_keys,
    **{
        f"loss_and_gradient_of_{name}": partial(
            loss_and_gradient, settings=ModelSettings(network=name, depth=2, width=128, heads=2)
        )
        for name in NETWORKS
    },
    "loss_and_gradient_of_wan_blocks": partial(loss_and_gradient, settings=WIDE, text_dim=4096),
}
"""By name; the last one is slow on a processor without bf16 instructions."""
