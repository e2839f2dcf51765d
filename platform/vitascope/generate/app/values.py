"""What passes between the deployments."""

from dataclasses import dataclass

import numpy as np
import torch

from vitascope.generate.app.scaling import Meter
from vitascope.generate.app.shares import Report, Takes
from vitascope.generate.sidecar import Kept, Spent


@dataclass(frozen=True, eq=False)
class Text:
    """Token states (m, text_dim) of prompt and negative prompt, and the uncut number of tokens of each."""

    prompt: np.ndarray
    negative: np.ndarray
    n_tokens: tuple[int, int]
    spent: Spent


@dataclass(frozen=True, eq=False)
class Given:
    """A conditioning latent (T, h, w, C) float32, its conditioning frames (T,) bool, and their sources."""

    latent: np.ndarray
    given: np.ndarray
    kept: Kept
    spent: Spent


@dataclass(frozen=True, eq=False)
class Denoised:
    """A latent (T, h, w, C) float32, and its `Text.n_tokens`.

    spent: of each stage so far. device_s: its part of the time of its passes.
    """

    latent: np.ndarray
    n_text: tuple[int, int]
    spent: dict[str, Spent]
    device_s: float = 0.0


class Metered:
    """A deployment whose replicas report their work, for scaling and routing."""

    room = 0.0
    """That of a replica, in the unit of its `Takes.room`."""

    def __init__(self) -> None:
        self.meter = Meter()

    async def awake(self, *, takes: Takes) -> None:
        """Does nothing; a call makes Serve start a replica if there is none."""

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `scaling.Scaling`; called by Serve."""
        return self.meter.report()

    def record_routing_stats(self) -> dict[str, object]:
        """For `routing.ByCost`; called by Serve."""
        return vars(Report(self.room, self.meter.callers()))


def device(gpus: float) -> torch.device:
    """A replica's device: `gpus` is what it asks of Ray."""
    return torch.device("cuda" if gpus else "cpu")
