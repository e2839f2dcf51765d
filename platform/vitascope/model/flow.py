"""Rectified flow: noise levels, noise and loss.

A sample at noise level t is x_t = (1 - t) x_0 + t ε; the model predicts the velocity ε - x_0 (Liu et al.
2022). Levels are per latent frame: 0 is a conditioning frame, 1 is to be generated from noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc, inf, log, sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from vitascope.feed.packs import Draw, Pack
from vitascope.feed.patches import Grid
from vitascope.model.objective import PATTERNS
from vitascope.records import stable_int
from vitascope.train.settings import ALL_LEVELS, Conditioning, NoiseRange

REFERENCE_TOKENS = 1024
"""The sample length at which the strength of a shift that grows applies unchanged."""


@dataclass(frozen=True)
class Shift:
    """Moves timesteps, a float, an array or a tensor in 0…1, towards noise: t' = s t / (1 + (s - 1) t).

    If it grows, s = strength · √(n_tokens / 1024): more tokens are more redundant, so the same damage needs
    more noise (Esser et al. 2024, section 5.3.2). Otherwise s is the strength for samples of any size.
    """

    strength: float
    grows: bool = True

    def apply(self, timestep: Any, n_tokens: int) -> Any:
        """The timestep after the shift, for a sample of `n_tokens`."""
        s = self._of(n_tokens)
        return s * timestep / (1 + (s - 1) * timestep)

    def undo(self, timestep: Any, n_tokens: int) -> Any:
        """The timestep that `apply` moves to `timestep`."""
        s = self._of(n_tokens)
        return timestep / (s - (s - 1) * timestep)

    def _of(self, n_tokens: int) -> float:
        return self.strength * (n_tokens / REFERENCE_TOKENS) ** 0.5 if self.grows else self.strength


@dataclass(frozen=True)
class Draws:
    """Samples noise levels, conditioning frames and caption dropout from (seed, epoch, sample id) alone.

    They do not depend on the rank, the time or the rest of the pack. Levels are logit-normal (Esser et al.
    2024, section 3.1), shifted, under the condition that they are within `noise_range`.
    """

    seed: int
    text_dropout: float
    shift: Shift
    conditioning: Conditioning = "all"
    noise_range: NoiseRange = ALL_LEVELS

    def __call__(self, sample_id: int, epoch: int, grid: Grid) -> Draw:
        """The draw for a sample of patch grid (T, H, W)."""
        key = stable_int("draw", self.seed, epoch, sample_id)
        rng = np.random.Generator(np.random.Philox(key))
        level = self._level(rng.standard_normal(), grid[0] * grid[1] * grid[2])
        timesteps = np.where(self._to_make(rng, grid[0]), level, 0.0).astype(np.float32)
        return Draw(timesteps, bool(rng.random() < self.text_dropout), key)

    def _level(self, normal: float, n_tokens: int) -> float:
        """The level of a sample of `n_tokens` that a number with the standard normal distribution gives."""
        if self.noise_range == ALL_LEVELS:
            return float(self.shift.apply(1 / (1 + np.exp(-normal)), n_tokens))
        low, high = self.noise_range
        ends = (self.shift.undo(end, n_tokens) if 0 < end < 1 else end for end in self.noise_range)
        logit = truncated(normal, *map(_logit, ends))
        return min(max(float(self.shift.apply(1 / (1 + np.exp(-logit)), n_tokens)), low), high)

    def _to_make(self, rng: np.random.Generator, n_frames: int) -> np.ndarray:
        """Which latent frames are to be generated; at least one is."""
        frequencies, patterns = zip(*PATTERNS[self.conditioning], strict=True)
        pattern = patterns[int(rng.choice(len(frequencies), p=frequencies))]
        mask = pattern(rng, n_frames) if n_frames > 1 else np.ones(1, bool)
        return mask if mask.any() else np.ones(n_frames, bool)


def _logit(level: float) -> float:
    return log(level / (1 - level)) if 0 < level < 1 else -inf if level <= 0 else inf


_BELOW_ONE = 1 - 2**-53


def truncated(normal: float, low: float, high: float) -> float:
    """A number between `low` and `high`: standard normal under this condition if `normal` is standard normal.

    It grows with `normal`: both have the same quantile in their distributions.
    """
    if low > 0:  # in the upper tail, probabilities would round to 1
        return -truncated(-normal, -high, -low)
    below, above = _probability(low), _probability(high)
    quantile = below + _probability(normal) * (above - below)
    return NormalDist().inv_cdf(min(quantile, _BELOW_ONE))


def _probability(normal: float) -> float:
    """That of a smaller number; exact in the lower tail, where NormalDist's is 0."""
    return 0.5 * erfc(-normal / sqrt(2))


@dataclass(frozen=True)
class Probe:
    """The measurement of held-out samples: at each of `levels` in turn, level n in epoch n.

    All frames are to be generated, with the caption. The noise follows from the sample's id alone: it is the
    same at every level, in every run and at every step.
    """

    levels: tuple[float, ...]

    def __call__(self, sample_id: int, epoch: int, grid: Grid) -> Draw:
        """The draw for a sample of patch grid (T, H, W)."""
        timesteps = np.full(grid[0], self.levels[epoch], np.float32)
        return Draw(timesteps, drop_text=False, noise_key=stable_int("evaluate", sample_id))


def noise(key: int, shape: tuple[int, int], device: torch.device | str = "cpu") -> torch.Tensor:
    """Standard normal float32 noise that depends only on `key`, `shape` and the kind of device."""
    generator = torch.Generator(device=device).manual_seed(key)
    return torch.randn(shape, generator=generator, device=device)


def noise_of(pack: Pack) -> torch.Tensor:
    """The noise of every segment of a pack, (N, D) float32."""
    dim, device = pack.tokens.shape[1], pack.tokens.device
    keys = pack.noise_keys.tolist()
    return torch.cat([noise(key, (n, dim), device) for key, n in zip(keys, pack.lengths, strict=True)])


def interpolate(clean: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """x_t of tokens (N, D) at levels (N,)."""
    t = timesteps[:, None]
    return (1 - t) * clean + t * eps


def loss(model: Callable[[Pack], torch.Tensor], pack: Pack) -> torch.Tensor:
    """Sum over the pack's samples of the sample's mean squared velocity error times its number of tokens.

    Divided by the tokens of all packs of a step it is the step's loss, whichever rank computed which pack.
    Conditioning frames have no loss; the generated frames represent the whole sample. float32 scalar.
    """
    return (_errors(model, pack) * token_weights(pack)).sum()


def sample_losses(model: Callable[[Pack], torch.Tensor], pack: Pack) -> torch.Tensor:
    """Mean squared velocity error of each of the pack's samples, over its generated frames. (S,) float32."""
    weighted = _errors(model, pack) * token_weights(pack)
    sums = torch.zeros(pack.n_segments, device=weighted.device)
    return sums.index_add(0, pack.segment_of_token, weighted) / pack.grids.prod(dim=1)


def _errors(model: Callable[[Pack], torch.Tensor], pack: Pack) -> torch.Tensor:
    """Squared velocity error of every token of a clean pack, (N,) float32."""
    clean = pack.tokens.float()
    levels = pack.timesteps[pack.frame_of_token]
    eps = noise_of(pack)
    predicted = model(pack.with_tokens(interpolate(clean, eps, levels)))
    return (predicted.float() - (eps - clean)).square().mean(dim=1)


def token_weights(pack: Pack) -> torch.Tensor:
    """(N,) weights: zero on conditioning frames, and summing to a sample's number of tokens over the rest."""
    made = (pack.timesteps > 0)[pack.frame_of_token].float()
    per_segment = torch.zeros(pack.n_segments, device=made.device).index_add(0, pack.segment_of_token, made)
    size = pack.grids.prod(dim=1)
    return made * (size / per_segment.clamp(min=1))[pack.segment_of_token]
