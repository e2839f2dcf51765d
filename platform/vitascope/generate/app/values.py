"""What passes between the deployments."""

from dataclasses import dataclass

import numpy as np
import torch

from vitascope.generate.sidecar import Kept


@dataclass(frozen=True, eq=False)
class Text:
    """Token states (m, text_dim) of prompt and negative prompt, and the uncut number of tokens of each."""

    prompt: np.ndarray
    negative: np.ndarray
    n_tokens: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Conditions:
    """A conditioning latent (T, h, w, C) float32, its conditioning frames (T,) bool, and their sources."""

    latent: np.ndarray
    given: np.ndarray
    kept: Kept


@dataclass(frozen=True, eq=False)
class Denoised:
    """A latent (T, h, w, C) float32, and its `Text.n_tokens`.

    seconds: its duration, including the wait. device_s: its part of the time of its passes.
    """

    latent: np.ndarray
    n_text: tuple[int, int]
    seconds: float
    device_s: float = 0.0


def device(gpus: float) -> torch.device:
    """A replica's device: `gpus` is what it asks of Ray."""
    return torch.device("cuda" if gpus else "cpu")
