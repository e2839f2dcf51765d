"""Takes a request from noise to latent, step by step."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from vitascope.feed.packs import Segment
from vitascope.feed.patches import Grid, grid_of, patchify, unpatchify
from vitascope.generate.conditions import Canvas
from vitascope.generate.denoise.reuse import MOST_IN_A_ROW, Recent
from vitascope.generate.denoise.sampling import OURS, Sampling
from vitascope.generate.denoise.schedule import Schedule
from vitascope.generate.denoise.scheduler import Load
from vitascope.generate.denoise.solvers import SOLVERS, Past
from vitascope.generate.request import WHOLE, Request
from vitascope.generate.settings import Quality
from vitascope.model.flow import noise
from vitascope.model.formats.card import ModelCard
from vitascope.model.lora import Use
from vitascope.records import stable_int


@dataclass(frozen=True, eq=False)
class Work:
    """A request between noise and latent, after `step` of its steps; `advance` takes it a pass further.

    tokens: (n, D) float32, the conditioning frames clean, the others at the noise level of `step`.
    given: (T,) bool, the mask of conditioning latent frames, which do not change.
    guidance: of each expert of the model. interval: the noise levels with guidance; at others it is 1.
    text, negative: (m, text_dim) token states of prompt and negative prompt; no rows without text.
    past: what the solver remembers. adapter: of the network, None for none.
    tied: (T,) int64, the latent frame that each is the same as; None if all are different.
    device_s: its part of the time of its passes.
    quality, recent: which steps need no pass, and what follows in them from the passes before.
    """

    tokens: Tensor
    grid: Grid
    given: Tensor
    schedule: Schedule
    guidance: tuple[float, ...]
    text: Tensor
    negative: Tensor
    solver: str = "euler"
    step: int = 0
    past: Past | None = None
    adapter: Use | None = None
    tied: Tensor | None = None
    device_s: float = 0.0
    interval: tuple[float, float] = WHOLE
    quality: Quality = "exact"
    recent: Recent | None = None

    @property
    def level(self) -> float:
        """The current noise level."""
        return self.schedule.levels[self.step]

    @property
    def expert(self) -> int:
        """The index of the network that the next pass needs."""
        return self.schedule.experts[self.step]

    @property
    def scale(self) -> float:
        """The guidance of the next pass."""
        return self._scale(self.step)

    def _scale(self, step: int) -> float:
        within = self.schedule.is_within(step, self.interval)
        return self.guidance[self.schedule.experts[step]] if within else 1.0

    @cached_property
    def load(self) -> Load:
        """The remaining work at most: some steps may need no pass, if the quality is not exact.

        A request that is guided in some passes takes the room for that until the last of them.
        """
        remaining = range(self.step, len(self.schedule.experts))
        n_segments = 2 if any(self._scale(step) != 1 for step in remaining) else 1
        return Load(n_segments * prod(self.grid), len(remaining))

    @cached_property
    def least(self) -> tuple[int, int]:
        """How many passes with one segment and with two are left at least, of the fewest patches."""
        remaining = range(self.step, len(self.schedule.experts))
        n_plain = sum(self._scale(step) == 1 for step in remaining)
        n_passes = -(-len(remaining) // (1 if self.quality == "exact" else 1 + MOST_IN_A_ROW))
        return min(n_plain, n_passes), max(0, n_passes - n_plain)

    @property
    def n_tokens(self) -> int:
        """Patches of the next pass."""
        return prod(self.grid) * (1 if self.scale == 1 else 2)

    @property
    def needs_no_pass(self) -> bool:
        """Whether the velocity of the next step follows from earlier passes; never of the last step."""
        if self.recent is None or self.load.n_passes < 2:
            return False
        return self.recent.suffices(self.level, (self.expert, self.scale), self.quality)

    def latent(self, patch: int) -> Tensor:
        """The current latent (T, h, w, C)."""
        return unpatchify(self.tokens, self.grid, patch)

    def is_finite(self) -> bool:
        """Whether every value is a number."""
        return bool(self.tokens.isfinite().all())


def begin(
    request: Request,
    canvas: Canvas,
    text: tuple[Tensor, Tensor],
    *,
    card: ModelCard,
    sampling: Sampling = OURS,
    device: str = "cpu",
) -> Work:
    """The work before its first step: conditioning frames clean, the others noise from the seed alone.

    If the request has a strength, these are the conditioning latent, noised to the level of the first step.

    Args:
        canvas: the conditioning latent.
        text: token states (m, text_dim) of the prompt and of the negative prompt.
        sampling: how the model of `card` is sampled.
    """
    t, h, w, _ = canvas.latent.shape
    grid = grid_of((t, h, w), card.model.patch)
    clean = patchify(canvas.latent.to(device=device, dtype=torch.float32), card.model.patch)
    given = canvas.given.to(device)
    eps = noise(stable_int("generate", request.seed), (clean.shape[0], clean.shape[1]), device)
    if canvas.tied is not None:
        eps = eps.unflatten(0, (t, -1))[canvas.tied.to(device)].flatten(0, 1)
    schedule = sampling.schedule(request, prod(grid), card)
    if request.strength is not None:
        eps = torch.lerp(clean, eps, schedule.levels[0])
    prompt, negative = (states.to(device=device, dtype=torch.float32) for states in text)
    return Work(
        tokens=torch.where(_of_tokens(given, grid), clean, eps),
        grid=grid,
        given=given,
        schedule=schedule,
        guidance=request.scales,
        text=prompt,
        negative=negative,
        solver=request.solver,
        adapter=Use(request.adapter, request.adapter_weight) if request.adapter else None,
        tied=None if canvas.tied is None else canvas.tied.to(device),
        interval=request.guidance_interval,
        quality=request.quality,
    )


def segments(work: Work) -> list[Segment]:
    """The segments of the next pass: the conditional branch and, if guided, the unconditional one."""
    timesteps = torch.where(work.given, 0.0, work.schedule.timesteps[work.step]).float()
    texts = [work.text] if work.scale == 1 else [work.text, work.negative]
    return [Segment(work.tokens, work.grid, timesteps, text) for text in texts]


def advance(work: Work, velocities: Sequence[Tensor]) -> Work:
    """The work after a pass with the velocity (n, D) of each of its segments: one step later, and later still
    if the next steps need no pass.

    Guidance extrapolates from the unconditional to the conditional velocity (Ho & Salimans 2022).
    """
    conditional, *rest = (v.float() for v in velocities)
    velocity = rest[0] + work.scale * (conditional - rest[0]) if rest else conditional
    if work.tied is not None:
        velocity = _mean_of_tied(velocity, work.tied)
    work = _stepped(_remembering(work, velocity), velocity)
    while work.needs_no_pass:
        work = without_pass(work)
    return work


def without_pass(work: Work) -> Work:
    """The work one step later, if `needs_no_pass`."""
    assert work.recent
    recent = dataclasses.replace(work.recent, in_a_row=work.recent.in_a_row + 1)
    return _stepped(dataclasses.replace(work, recent=recent), recent.at(work.level))


def _remembering(work: Work, velocity: Tensor) -> Work:
    """The work, which remembers the velocity of its pass if later steps may do without one."""
    if work.quality == "exact":
        return work
    made = torch.where(_of_tokens(work.given, work.grid), 0.0, velocity)
    now = made, work.level, (work.expert, work.scale)
    return dataclasses.replace(work, recent=work.recent.then(*now) if work.recent else Recent(*now))


def _stepped(work: Work, velocity: Tensor) -> Work:
    at = (work.schedule.levels, work.step)
    stepped, past = SOLVERS[work.solver](work.tokens, velocity, at, work.past)
    tokens = torch.where(_of_tokens(work.given, work.grid), work.tokens, stepped)
    return dataclasses.replace(work, tokens=tokens, step=work.step + 1, past=past)


def _mean_of_tied(velocity: Tensor, tied: Tensor) -> Tensor:
    """The velocity (n, D) whose latent frames that are the same have the mean of theirs."""
    of_frames = velocity.unflatten(0, (len(tied), -1))
    counts = tied.bincount(minlength=len(tied)).clamp(min=1)[:, None, None]
    mean = torch.zeros_like(of_frames).index_add(0, tied, of_frames) / counts
    return mean[tied].flatten(0, 1)


def _of_tokens(per_frame: Tensor, grid: Grid) -> Tensor:
    """(T,) values as (n, 1), one per token."""
    return per_frame.repeat_interleave(grid[1] * grid[2])[:, None]
