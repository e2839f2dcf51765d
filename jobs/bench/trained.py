"""Small models trained in a minute on synthetic latents, for the benchmarks of the sampler.

A sample is a latent video of a soft blob that moves: its colour and direction follow from the text, its
start and size from the seed. Guidance has a meaning, because every tenth sample has no text.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from vitascope.encode.settings import EncodeSettings
from vitascope.feed.packs import Pack, Segment, collate
from vitascope.feed.patches import grid_of, patchify
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise.sampler import Work, begin
from vitascope.generate.denoise.sampling import Sampling
from vitascope.generate.request import Request
from vitascope.model import flow
from vitascope.model.formats.card import ModelCard
from vitascope.model.network import Network
from vitascope.model.networks import NETWORKS
from vitascope.model.settings import ModelSettings

CHANNELS, TEXT_DIM, KINDS = 4, 16, 8
SIZES = ((5, 8, 8), (3, 12, 8), (1, 16, 16), (7, 8, 12))
"""Latent sizes: frames, height, width."""
BATCH = 12
SETTINGS = {
    "dit": ModelSettings(depth=4, width=128, heads=4, patch=2),
    "wan": ModelSettings(network="wan", depth=4, width=144, heads=4, patch=2),
}


def card_of(network: str) -> ModelCard:
    """The card of one of the models."""
    objective = NETWORKS[network].objective
    return ModelCard(
        model=SETTINGS[network],
        encode=EncodeSettings(),
        channels=CHANNELS,
        text_dim=TEXT_DIM,
        fingerprint="synthetic",
        timestep_shift=objective.shift,
        step=0,
    )


def text_of(kind: int) -> Tensor:
    """The token states (2, TEXT_DIM) of a kind of video."""
    return torch.randn(2, TEXT_DIM, generator=torch.Generator().manual_seed(kind))


def latent_of(kind: int, seed: int, size: tuple[int, int, int]) -> Tensor:
    """A video (T, h, w, CHANNELS) of standard deviation near 1."""
    rng = np.random.default_rng((kind, seed))
    start, radius = rng.uniform(0.25, 0.75, 2), rng.uniform(0.12, 0.22)
    colour = np.random.default_rng(kind).standard_normal(CHANNELS)
    angle = 2 * np.pi * kind / KINDS
    t, y, x = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
    at_y = (y + 0.5) / size[1] - start[0] - 0.05 * t * np.sin(angle)
    at_x = (x + 0.5) / size[2] - start[1] - 0.05 * t * np.cos(angle)
    blob = np.exp(-(at_y**2 + at_x**2) / (2 * radius**2))[..., None]
    stripes = 0.3 * np.sin(2 * np.pi * (x / size[2] * (1 + kind % 3)))[..., None]
    return torch.from_numpy((3 * blob - 0.6) * colour + stripes).float()


def _batch(step: int, draws: flow.Draws) -> Pack:
    rng = np.random.default_rng(step)
    segments = []
    for i in range(BATCH):
        size, kind, seed = SIZES[rng.integers(len(SIZES))], int(rng.integers(KINDS)), int(rng.integers(2**31))
        latent = latent_of(kind, seed, size)
        draw = draws(step * BATCH + i, 0, grid := grid_of(size, 2))
        text = torch.zeros(0, TEXT_DIM) if draw.drop_text else text_of(kind)
        timesteps = torch.from_numpy(draw.timesteps)
        segments.append(Segment(patchify(latent, 2), grid, timesteps, text, noise_key=draw.noise_key))
    return collate(segments)


def learning(model: Network, steps: int, pack_of: Callable[[int], Pack]) -> Iterator[float]:
    """Trains a model, a pack a step, and yields the loss of a patch after each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        pack = pack_of(step)
        loss = flow.loss(model, pack) / pack.n_tokens
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        yield loss.item()


@cache
def trained(network: str, steps: int) -> tuple[Network, float]:
    """A model after so many steps of training, and its mean loss in the last tenth of them."""
    torch.manual_seed(0)
    card = card_of(network)
    model, draws = card.build().train(), flow.Draws(0, 0.1, card.shift, "none")
    losses = list(learning(model, steps, lambda step: _batch(step, draws)))
    return model.eval(), float(np.mean(losses[-max(1, steps // 10) :]))


def works(network: str, n: int, sampling: Sampling, **fields: object) -> list[Work]:
    """Requests of each size and kind in turn, with seeds that training did not see."""
    card = card_of(network)
    made = []
    for i in range(n):
        size = SIZES[i % len(SIZES)]
        document = {"custom_id": str(i), "prompt": "a blob", "width": 64, "height": 64, "seconds": 1}
        request = Request.model_validate(document | {"seed": i, "steps": 30, "guidance": 2.0} | fields)
        canvas = Canvas(torch.zeros(*size, CHANNELS), torch.zeros(size[0], dtype=torch.bool))
        text = text_of(i % KINDS), torch.zeros(0, TEXT_DIM)
        made.append(begin(request, canvas, text, card=card, sampling=sampling))
    return made
