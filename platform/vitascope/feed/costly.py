"""Samples too costly to be levelled, and their steps.

A sample that costs more than the mean pack makes its step last as long as itself, whatever the other packs
hold. Steps then can be equal only in kind: such samples, sorted by cost, are taken G at a time, one for each
pack of a step. Ranks wait for as little as neighbours in that order differ, in all less than one such sample.
"""

import numpy as np
import numpy.typing as npt

from vitascope.feed.lengths import Floats, Ints, Lengths, blocks

NO_SAMPLE = -1
"""Stands for a pack of such a step without a costly sample: they are not a multiple of G."""

_MARGIN = 1.25  # with 1.1, packs of 64 ranks still differed by 1 % in cost, with 1.25 by 0.04 %
_TOLERATED = 0.01  # of a mean pack's cost: waiting that is too little to give up a step's mix for
_ALIKE = 0.01  # samples whose costs differ by less than this change places from epoch to epoch


def excess_limit(lengths: Lengths, token_budget: int) -> float:
    """The most excess (cost above that of as many of the cheapest tokens) with which packs can be equal.

    A pack with the costliest sample, filled up with the cheapest tokens, must not cost more than the mean
    pack: the sample's excess may be as much as the mean excess of a full pack. Samples beyond the limit are
    left out of that mean; there are at most as many of them as packs.
    """
    sums = np.zeros((3, 255 << 6))  # excess, tokens and number of samples by excess, 64 classes an octave
    for part in blocks(len(lengths)):
        excess = lengths.excess(part)
        kind = excess.view(np.int32) >> 17
        for row, values in zip(sums, (excess, lengths.tokens[part], None), strict=True):
            row += np.bincount(kind, values, len(row))
    excess_sum, token_sum, count = np.cumsum(sums, axis=1)
    edges = ((np.arange(1, len(count) + 1) << 17) - 1).astype(np.int32).view(np.float32).astype(float)
    levelled = (_MARGIN * edges * token_sum <= token_budget * excess_sum) & (sums[2] > 0)
    at_most = np.flatnonzero(count[-1] - count <= token_sum[-1] / token_budget)[0]
    limit = edges[max([at_most, *np.flatnonzero(levelled)[-1:]])]
    mean_cost = lengths.cheapest_token * token_budget + excess_sum[-1] / token_sum[-1] * token_budget
    return max(float(limit), _TOLERATED * float(mean_cost))


def grouped(
    samples: Ints, costs: Floats, *, packs_per_step: int, noise: Floats
) -> npt.NDArray[np.int64]:
    """(Q, G) costly samples as they share steps, the costliest first; the last step may have fewer.

    Args:
        samples, costs: (H,) sample numbers, and what they cost.
        noise: (H,) random numbers between 0 and 1, for the order of those that cost about the same.
    """
    order = np.argsort(-costs * (1 + _ALIKE * noise), kind="stable")
    n_steps = -(-len(samples) // packs_per_step)
    steps = np.full(n_steps * packs_per_step, NO_SAMPLE, np.int64)
    steps[: len(samples)] = samples[order]
    return steps.reshape(n_steps, packs_per_step)
