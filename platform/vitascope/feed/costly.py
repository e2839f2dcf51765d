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
GAP_COST, GAP_TOKENS = 0.05, 0.07


def cost_limit(lengths: Lengths, token_budget: int) -> float:
    sums = np.zeros((2, 255 << 6))  # costs and tokens of samples by cost, 64 classes an octave
    for part in blocks(len(lengths)):
        costs = lengths.costs[part].astype(np.float32)
        kind = costs.view(np.int32) >> 17
        for row, values in zip(sums, (costs, lengths.tokens[part]), strict=True):
            row += np.bincount(kind, values, len(row))
    counts = np.zeros(255 << 6)
    for part in blocks(len(lengths)):
        counts += np.bincount(lengths.costs[part].astype(np.float32).view(np.int32) >> 17, minlength=255 << 6)
    there = np.flatnonzero(counts)
    edges = (((there + 1) << 17) - 1).astype(np.int32).view(np.float32).astype(np.float64)
    cost, tokens = sums[:, there]
    count = counts[there]
    excess = np.maximum(cost - lengths.cheapest_token * tokens, 0)
    packs = np.cumsum(tokens) / token_budget
    fits = _MARGIN * excess / count * packs <= np.cumsum(excess)
    gap = lambda each: np.tril(each / count * packs[:, None] - (np.cumsum(each) - each)).max(axis=1)
    cost_gap, token_gap = gap(excess), gap(tokens)
    small = (excess / count * packs <= _TOLERATED * np.cumsum(cost)) & (token_gap <= GAP_TOKENS * np.cumsum(tokens))
    ok = small | fits & (cost_gap <= GAP_COST * np.cumsum(cost)) & (token_gap <= GAP_TOKENS * np.cumsum(tokens))
    return float(edges[ok][-1]) if ok.any() else 0.0


_CLASSES = 1024

def best_fit(tokens: Ints, token_budget: int) -> npt.NDArray[np.int64]:
    """(H,) the pack of each sample, in their order, largest first: the fullest that has room for it."""
    stacks: list[list[int]] = [[] for _ in range(_CLASSES + 1)]
    rooms: list[int] = []
    packs = []
    mask = 0
    for size in tokens.tolist():
        kind = size * _CLASSES // token_budget
        stack = stacks[kind]
        if stack and rooms[stack[-1]] < size:
            kind += 1
        open_ = mask >> kind
        if open_:
            kind += (open_ & -open_).bit_length() - 1
            stack = stacks[kind]
            pack = stack.pop()
            if not stack:
                mask ^= 1 << kind
            room = rooms[pack] = rooms[pack] - size
        else:
            pack, room = len(rooms), token_budget - size
            rooms.append(room)
        packs.append(pack)
        kind = room * _CLASSES // token_budget
        stacks[kind].append(pack)
        mask |= 1 << kind
    return np.array(packs, np.int64)
