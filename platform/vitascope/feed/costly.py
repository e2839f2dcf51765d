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
GAP = 0.05


def excess_limit(lengths: Lengths, token_budget: int) -> float:
    """The most excess (cost above that of as many of the cheapest tokens) of samples that can be levelled.

    A pack with the costliest sample, filled up with the cheapest tokens, must not cost more than the mean
    pack, so that the sample's excess may be as much as a full pack's mean. And after the samples of a size
    are dealt out some packs have one more than others: the smaller samples must have the excess to make that
    up. Samples beyond the limit are left out of all this.
    """
    sums = np.zeros((2, 255 << 6))  # excess and tokens of samples by excess, 64 classes an octave
    for part in blocks(len(lengths)):
        excess = lengths.excess(part)
        kind = excess.view(np.int32) >> 17
        for row, values in zip(sums, (excess, lengths.tokens[part]), strict=True):
            row += np.bincount(kind, values, len(row))
    there = np.flatnonzero(sums[1])
    each = (((there + 1) << 17) - 1).astype(np.int32).view(np.float32).astype(np.float64)
    excess_sum, token_sum = np.cumsum(sums[:, there], axis=1)
    packs, cost = token_sum / token_budget, excess_sum + lengths.cheapest_token * token_sum
    fits = _MARGIN * each * packs <= excess_sum
    gaps = np.tril(each * packs[:, None] - (excess_sum - sums[0, there]))  # of classes, with those up to another
    levelled = (fits & (gaps.max(axis=1) <= GAP * cost)) | (each * packs <= _TOLERATED * cost)
    return float(each[levelled][-1]) if levelled.any() else 0.0


def in_packs(tokens: Ints, token_budget: int, *, alone: bool) -> npt.NDArray[np.int64]:
    """(H,) the pack of each costly sample, in their order: one for each, or as many as follow and fit."""
    if alone:
        return np.arange(len(tokens))
    packs, number, held = [], -1, token_budget
    for size in tokens.tolist():
        held += size
        if held > token_budget:
            number, held = number + 1, size
        packs.append(number)
    return np.array(packs, np.int64)
