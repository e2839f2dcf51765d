"""The held-out loss while training."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from vitascope.feed.packs import Pack
from vitascope.feed.stream import Step
from vitascope.model import flow

NO_SAMPLE = -1  # in the packs of ranks without work


def sums(
    model: Callable[[Pack], torch.Tensor], steps: Iterator[Step], n_levels: int, device: torch.device
) -> np.ndarray:
    """Sum and number of this rank's sample losses at each noise level: (n_levels, 2) float64.

    steps: an epoch for each level, as in `flow.Probe`. The sums divided by the numbers, each added over the
    ranks, are the losses that `vitascope evaluate` reports for the same weights.
    """
    totals = np.zeros((n_levels, 2))
    with torch.no_grad():
        for step in steps:
            for pack in step.packs:
                real = pack.sample_ids != NO_SAMPLE
                losses = flow.sample_losses(model, pack.to(device)).cpu()[real].double()
                totals[step.position.epoch] += float(losses.sum()), len(losses)
    return totals
