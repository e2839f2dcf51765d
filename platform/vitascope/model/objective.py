"""How a family of networks is trained: shift and conditioning frames."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitascope.train.settings import Conditioning

Pattern = Callable[[np.random.Generator, int], np.ndarray]
"""Samples which of so many latent frames are to be generated, at least two: (T,) bool."""


def _none(_: np.random.Generator, n_frames: int) -> np.ndarray:
    return np.ones(n_frames, bool)


def _one(_: np.random.Generator, n_frames: int) -> np.ndarray:
    return np.arange(n_frames) >= 1


def _beginning(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    # One conditioning frame (image-to-video) as often as all longer beginnings together.
    given = 1 if rng.random() < 0.5 else int(rng.integers(1, n_frames))
    return np.arange(n_frames) >= given


def _end(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    return _beginning(rng, n_frames)[::-1]


def _both_ends(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    return _beginning(rng, n_frames) & _end(rng, n_frames)


def _any_frames(rng: np.random.Generator, n_frames: int) -> np.ndarray:
    return rng.random(n_frames) < 0.5


PATTERNS: dict[Conditioning, tuple[tuple[float, Pattern], ...]] = {
    "none": ((1.0, _none),),
    "first": ((0.5, _none), (0.5, _one)),
    "all": ((0.5, _none), (0.25, _beginning), (0.1, _end), (0.1, _both_ends), (0.05, _any_frames)),
}
"""How often training samples each pattern of frames to be generated; the rest are conditioning frames."""


@dataclass(frozen=True)
class Objective:
    """How the networks of a family are trained, unless the settings say otherwise, and sampled.

    shift: the strength of the shift of timesteps (`flow.Shift`). shift_grows: whether longer samples are
        shifted further towards noise.
    smallest_timestep: the sampler's last jump, to the clean patch, starts no lower.
    conditioning: of networks with a timestep for each latent frame; the others get no conditioning frames.
    per_frame_channels: the latent channels of the networks with a timestep for each frame; None for all.
    """

    shift: float
    shift_grows: bool
    smallest_timestep: float
    conditioning: Conditioning
    per_frame_channels: int | None = None

    def conditioning_of(self, channels: int, *, per_frame: bool | None) -> Conditioning:
        """What a network for latents of so many channels was made for.

        per_frame: whether it has a timestep for each latent frame, if that is known.
        """
        if per_frame is None:
            per_frame = self.per_frame_channels in (None, channels)
        return self.conditioning if per_frame else "none"
