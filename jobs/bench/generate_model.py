"""The model, the requests and the engine that the benchmarks of generation share."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from vitascope.encode.codecs import make_codec
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise import sampler
from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.request import Request
from vitascope.model.formats.card import ModelCard
from vitascope.model.settings import ModelSettings

T = TypeVar("T")
SIZES = ((1, 64, 64), (5, 32, 32), (5, 32, 64), (9, 32, 32), (9, 32, 64), (9, 64, 64))
"""Frames, height and width of the small requests: 8 to 48 patches."""
MODES = ("text_to_video", "image_to_video", "extend_forward", "extend_backward")
TEXT_TOKENS = 6


def make_card(depth: int, width: int) -> ModelCard:
    """The card of a small DiT for latents of the DCT codec."""
    encode = EncodeSettings(dct_channels=12)
    return ModelCard(
        model=ModelSettings(depth=depth, width=width, heads=max(1, width // 64), patch=2),
        encode=encode,
        channels=make_codec(encode).channels,
        text_dim=make_text_encoder(encode).dim,
        fingerprint="bench",
        timestep_shift=1.0,
        step=1,
    )


def make_network(card: ModelCard) -> torch.nn.Module:
    """A network whose output layers are not zero, as those of a new one would be."""
    torch.manual_seed(0)
    network = card.build().eval()
    for weights in network.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.02)
    return network


@dataclass
class Passes:
    """A model that notes its passes: when each began, its cost, and who took part for the first time."""

    experts: Experts
    log: list[tuple[float, float]] = field(default_factory=list)
    first_s: dict[int, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.experts, name)

    def velocities(self, works: Sequence[Work]) -> list[list[Tensor]]:
        """As the model; a work is known by its prompt, which no step replaces."""
        now = time.perf_counter()
        for work in works:
            self.first_s.setdefault(id(work.text), now)
        self.log.append((now, sum(w.n_tokens * self.experts.weight(prod(w.grid)) for w in works)))
        return self.experts.velocities(works)


@dataclass(frozen=True)
class Bench:
    """The model, its saturation point and its card."""

    card: ModelCard
    experts: Experts
    budget: float

    def work(self, size: tuple[int, int, int], *, steps: int, guidance: float = 1.0, at: int = 0) -> Work:
        """A request before its first step; `at` chooses its mode, its noise and its prompt."""
        n_frames, height, width = size
        document = {"custom_id": str(at), "prompt": "a", "seed": at, "steps": steps, "guidance": guidance}
        frames = {"height": height, "width": width, "seconds": n_frames / 8, "fps": 8}
        request = Request.model_validate(document | frames)
        shape = self.card.patching.latent_shape(self.card.patching.covering(request.size))
        generator = torch.Generator().manual_seed(at)
        canvas = torch.randn(*shape, self.card.channels, generator=generator)
        states = torch.randn(TEXT_TOKENS, self.card.text_dim, generator=generator)
        given = _given(MODES[at % len(MODES)], shape[0])
        negative = torch.zeros(0, self.card.text_dim)
        return sampler.begin(request, Canvas(canvas, given), (states, negative), card=self.card)


def _given(mode: str, n: int) -> Tensor:
    """The mask of the conditioning latent frames; an image has none."""
    frame = torch.arange(n)
    masks = {
        "text_to_video": frame < 0,
        "image_to_video": frame < min(1, n - 1),
        "extend_forward": frame < n // 2,
        "extend_backward": frame >= n - n // 2,
    }
    return masks[mode]


@torch.inference_mode()
def advanced(model: Any, works: Sequence[Work]) -> list[Work]:
    """Works of the same number of steps with all their steps done, in passes of all of them."""
    while works[0].load.n_passes:
        velocities = model.velocities(works)
        works = [sampler.advance(work, parts) for work, parts in zip(works, velocities, strict=True)]
    return list(works)


def in_engine(model: Any, works: Sequence[Work], budget: float) -> list[Work]:
    """All at once in our engine."""
    denoiser = Denoiser(model, token_budget=budget, max_tokens=10**6)
    try:
        return [future.result() for future in [denoiser.submit(work) for work in works]]
    finally:
        denoiser.close()


def large(bench: Bench, over: float) -> tuple[int, int, int]:
    """The smallest square video of 9 frames whose pass costs `over` times the budget."""
    side = 16
    while 3 * (side // 16) ** 2 * bench.experts.weight(3 * (side // 16) ** 2) < over * bench.budget:
        side += 16
    return 9, side, side


def seconds(run: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_a_thread(run: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """The result of a call in a thread of its own, which has ended then.

    Each thread that computes has a pool of threads of OpenMP, whose threads wait asleep once there are more
    of them than processors: a pool that an earlier way has left would slow down the next one.
    """
    with ThreadPoolExecutor(1) as once:
        return once.submit(run, *arguments, **more).result()
