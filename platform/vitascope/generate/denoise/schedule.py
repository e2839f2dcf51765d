"""The noise levels of a request's steps."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vitascope.generate.denoise.solvers import BELOW_NOISE
from vitascope.model.flow import Shift

NETWORK_TIMESTEPS = 1000
"""Published networks count timesteps from 0 to this; ours from 0 to 1."""


@dataclass(frozen=True)
class Schedule:
    """What each step needs to know of noise.

    levels: noise levels from 1, or a lower level to start from, to 0, one more than the steps.
    timesteps: what the network is given in each step, 0…1; some published schedulers round it.
    experts: the index of each step's network.
    """

    levels: tuple[float, ...]
    timesteps: tuple[float, ...]
    experts: tuple[int, ...]

    @classmethod
    def of(cls, levels: tuple[float, ...]) -> "Schedule":
        """One network for all levels, which it is given as they are."""
        return cls(levels, levels[:-1], (0,) * (len(levels) - 1))

    def last(self, n_steps: int) -> "Schedule":
        """The last of its steps."""
        return Schedule(self.levels[-1 - n_steps :], self.timesteps[-n_steps:], self.experts[-n_steps:])

    def is_within(self, step: int, interval: tuple[float, float]) -> bool:
        """Whether the noise level of a step lies in an interval, which includes its ends."""
        low, high = interval
        return low <= min(self.levels[step], 1.0) <= high  # pure noise may be rounded to a level above 1


def spaced(steps: int, n_tokens: int, shift: Shift, *, smallest: float) -> Schedule:
    """Noise levels from 1 to 0, equally spaced and then shifted as in training: those of our own models.

    The last step starts no lower than `smallest`, below which the network's velocity does not reach clean.
    """
    last = max(1 / steps, float(shift.undo(smallest, n_tokens)))
    spaced = np.linspace(1.0, last, steps)
    return Schedule.of((*shift.apply(spaced, n_tokens).tolist(), 0.0))


def as_published(
    solver: str, steps: int, shift: float, *, n_train: int, boundary: float | None = None
) -> Schedule:
    """The levels that Diffusers' scheduler for `solver` has, to the last bit of float32.

    Args:
        shift: its shift or flow_shift. n_train: its num_train_timesteps, at most 1000.
        boundary: the fraction of `n_train` below which timesteps belong to the second expert.
    """
    levels, timesteps = _PUBLISHED[solver](steps, Shift(shift, grows=False), n_train)
    switch = -np.inf if boundary is None else boundary * n_train
    return Schedule(
        levels=(*levels.astype(np.float32).tolist(), 0.0),
        timesteps=tuple((timesteps / NETWORK_TIMESTEPS).tolist()),
        experts=tuple((timesteps < switch).astype(int).tolist()),
    )


def _of_unipc(steps: int, shift: Shift, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """UniPCMultistepScheduler's with use_flow_sigmas; timesteps are whole numbers, cut off."""
    levels = shift.apply(np.linspace(1, 1 / n_train, steps + 1)[:-1], 1)
    levels[0] -= BELOW_NOISE * (abs(levels[0] - 1) < BELOW_NOISE)
    return levels, np.trunc(levels * n_train)


def _of_dpmpp_2m(steps: int, shift: Shift, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """DPMSolverMultistepScheduler's with use_flow_sigmas, which begins a timestep below pure noise."""
    levels = shift.apply(1 - np.linspace(1, 1 / n_train, steps + 1), 1)[:0:-1]
    return levels, np.trunc(levels * n_train)


def _of_euler(steps: int, shift: Shift, n_train: int) -> tuple[np.ndarray, np.ndarray]:
    """FlowMatchEulerDiscreteScheduler's, which shifts the lowest level twice."""
    high, low = (n_train * float(shift.apply(np.float32(level), 1)) for level in (1, 1 / n_train))
    levels = shift.apply(np.linspace(high, low, steps) / n_train, 1)
    return levels, levels.astype(np.float32) * np.float32(n_train)


_PUBLISHED: dict[str, Callable[[int, Shift, int], tuple[np.ndarray, np.ndarray]]] = {
    "unipc": _of_unipc,
    "dpmpp_2m": _of_dpmpp_2m,
    "euler": _of_euler,
}
