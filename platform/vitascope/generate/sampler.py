"""Takes a request from noise to latent, step by step."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from vitascope.feed.packs import Segment
from vitascope.feed.patches import Grid, grid_of, patchify, unpatchify
from vitascope.generate.conditions import Canvas
from vitascope.generate.request import Request
from vitascope.generate.scheduler import Load
from vitascope.model.card import ModelCard
from vitascope.model.flow import Shift, noise
from vitascope.model.networks import NETWORKS
from vitascope.records import stable_int


@dataclass(frozen=True, eq=False)
class Work:
    """A request between noise and latent, after `step` of its steps; `advance` returns the next.

    tokens: (n, D) float32, the conditioning frames clean, the others at noise level `schedule[step]`.
    given: (T,) bool, the mask of conditioning latent frames, which do not change.
    schedule: noise levels from 1 to 0, one more than the number of steps.
    text, negative: (m, text_dim) token states of prompt and negative prompt; no rows without text.
    """

    tokens: Tensor
    grid: Grid
    given: Tensor
    schedule: tuple[float, ...]
    guidance: float
    text: Tensor
    negative: Tensor
    step: int = 0

    @property
    def load(self) -> Load:
        """The remaining work."""
        n_segments = 1 if self.guidance == 1 else 2
        return Load(n_segments * prod(self.grid), len(self.schedule) - 1 - self.step)

    def latent(self, patch: int) -> Tensor:
        """The current latent (T, h, w, C)."""
        return unpatchify(self.tokens, self.grid, patch)

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return bool(self.tokens.isfinite().all())


def begin(
    request: Request, canvas: Canvas, text: tuple[Tensor, Tensor], *, card: ModelCard, device: str = "cpu"
) -> Work:
    """The work before its first step: conditioning frames clean, the others noise from the seed alone.

    Args:
        canvas: the conditioning latent.
        text: token states (m, text_dim) of the prompt and of the negative prompt.
    """
    t, h, w, _ = canvas.latent.shape
    grid = grid_of((t, h, w), card.model.patch)
    clean = patchify(canvas.latent.to(device=device, dtype=torch.float32), card.model.patch)
    given = canvas.given.to(device)
    eps = noise(stable_int("generate", request.seed), (clean.shape[0], clean.shape[1]), device)
    prompt, negative = (states.to(device=device, dtype=torch.float32) for states in text)
    return Work(
        tokens=torch.where(_of_tokens(given, grid), clean, eps),
        grid=grid,
        given=given,
        schedule=schedule(
            request.steps,
            prod(grid),
            card.shift,
            smallest=NETWORKS[card.model.network].objective.smallest_timestep,
        ),
        guidance=request.guidance,
        text=prompt,
        negative=negative,
    )


def schedule(steps: int, n_tokens: int, shift: Shift, *, smallest: float) -> tuple[float, ...]:
    """Noise levels from 1 to 0, equally spaced and then shifted as in training.

    The last step starts no lower than `smallest`, below which the network's velocity does not reach clean.
    """
    last = max(1 / steps, float(shift.undo(smallest, n_tokens)))
    spaced = np.linspace(1.0, last, steps)
    return (*shift.apply(spaced, n_tokens).tolist(), 0.0)


def segments(work: Work) -> list[Segment]:
    """The segments of the next pass: the conditional branch and, if guided, the unconditional one."""
    level = work.schedule[work.step]
    timesteps = torch.where(work.given, 0.0, level).float()
    texts = [work.text] if work.guidance == 1 else [work.text, work.negative]
    return [Segment(work.tokens, work.grid, timesteps, text) for text in texts]


def advance(work: Work, velocities: Sequence[Tensor]) -> Work:
    """The work one Euler step later, given the velocity (n, D) of each of its segments.

    Guidance extrapolates from the unconditional to the conditional velocity (Ho & Salimans 2022).
    """
    conditional, *rest = (v.float() for v in velocities)
    velocity = rest[0] + work.guidance * (conditional - rest[0]) if rest else conditional
    stride = work.schedule[work.step + 1] - work.schedule[work.step]
    stepped = work.tokens + stride * velocity
    tokens = torch.where(_of_tokens(work.given, work.grid), work.tokens, stepped)
    return dataclasses.replace(work, tokens=tokens, step=work.step + 1)


def _of_tokens(per_frame: Tensor, grid: Grid) -> Tensor:
    """(T,) values as (n, 1), one per token."""
    return per_frame.repeat_interleave(grid[1] * grid[2])[:, None]
