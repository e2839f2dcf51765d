"""Samples that cannot be levelled, and the packs of their steps.

A sample that costs more than the mean pack makes its step last as long as itself, whatever the other packs
hold; and a few large samples to a pack leave gaps that nothing smaller fills. Then only steps of one kind can
be equal: such samples are packed separately, and packs of similar cost are in one step. In order of cost a
rank waits only for the difference between neighbours, in total less than the time of one such pack.
"""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from vitascope.feed.lengths import Floats, Ints, Lengths, blocks
from vitascope.feed.packing import busy, pack

_MARGIN = 1.25  # with 1.1, packs of 64 ranks still differed by 1 % in cost, with 1.25 by 0.04 %
_BUSY = 0.98  # of the ranks' time, in a trial: below it, a step's mix of sizes is given up
_TRIAL_PACKS, _TRIAL_SAMPLES, _TRIAL_FILL = 64, 1 << 17, 0.97
_ALONE = 0.9  # of the packs: the most that may hold a single costly sample each
_ALIKE = 0.01  # samples whose sizes differ by less than this change places from epoch to epoch
_ROOMS = 1024  # classes of packs by their room


def cost_limits(lengths: Lengths, *, token_budget: int, packs_per_step: int) -> list[float]:
    """The largest cost of samples that are levelled with others: one limit, or two to choose from.

    The first is determined by trial: a subset of the lengths up to a limit, enough to fill 64 packs, is
    packed, and the ranks must be busy. The highest limit that is tried considers all lengths, so that rare
    samples count. If the costly samples outnumber the packs, the second leaves a pack for each.
    """
    sums = _sums_by_kind(lengths)
    part = np.linspace(0, len(lengths) - 1, min(len(lengths), _TRIAL_SAMPLES)).astype(np.int64)
    order = np.argsort(-lengths.costs[part], kind="stable")
    tokens, costs = lengths.tokens[part][order], lengths.costs[part][order]
    most = _highest(sums, lengths.cheapest_token, token_budget) if packs_per_step > 1 else np.inf
    limits = np.append(most, _edges(np.unique(_kinds(costs))[::-1]))
    limits = limits[limits <= most]

    def levelled(number: int) -> bool:
        part = slice(int(np.count_nonzero(costs > limits[number])), None)
        return _busy_on_trial(tokens[part], costs[part], packs_per_step, token_budget) >= _BUSY

    number = bisect_left(range(len(limits)), True, key=levelled)
    limit = float(limits[number]) if number < len(limits) else 0.0
    beyond = sums[2].sum() - np.cumsum(sums[2])
    few = int(np.flatnonzero(beyond <= _ALONE * sums[1].sum() / token_budget)[0])
    alone = float(_edges(np.array([few]))[0])
    return [limit, alone] if limit < alone and packs_per_step > 1 else [limit]


def costly_packs(
    tokens: Ints, costs: Floats, noise: Floats, *, token_budget: int, alone: bool
) -> npt.NDArray[np.int64]:
    """(H,) the pack of each costly sample, the costliest pack first.

    Args:
        tokens, costs: (H,) of each sample.
        noise: (H,) random numbers from 0 to 1, for the order of similar samples.
        alone: one pack for each, which other samples fill up; otherwise as few packs as hold them.
    """
    order = np.argsort(-(costs if alone else tokens) * (1 + _ALIKE * noise), kind="stable")
    packs = np.empty(len(tokens), np.int64)
    packs[order] = np.arange(len(tokens)) if alone else best_fit(tokens[order], token_budget)
    rank = np.argsort(np.argsort(-np.bincount(packs, costs), kind="stable"), kind="stable")
    return rank[packs]


def best_fit(tokens: Ints, token_budget: int) -> npt.NDArray[np.int64]:
    """(H,) the pack of each sample, in their order: one of the fullest with room for it, or a new one."""
    stacks: list[list[int]] = [[] for _ in range(_ROOMS + 1)]  # packs by their room
    rooms: list[int] = []
    packs, stacked = [], 0  # stacked: a bit for each stack that holds a pack
    for size in tokens.tolist():
        kind = size * _ROOMS // token_budget
        if stacks[kind] and rooms[stacks[kind][-1]] < size:
            kind += 1
        if fitting := stacked >> kind:
            kind += (fitting & -fitting).bit_length() - 1
            number = stacks[kind].pop()
            stacked ^= (not stacks[kind]) << kind
        else:
            number = len(rooms)
            rooms.append(token_budget)
        packs.append(number)
        rooms[number] -= size
        kind = rooms[number] * _ROOMS // token_budget
        stacks[kind].append(number)
        stacked |= 1 << kind
    return np.array(packs, np.int64)


def _sums_by_kind(lengths: Lengths) -> Floats:
    """(3, kinds) costs, tokens and number of the samples of each kind."""
    sums = np.zeros((3, 255 << 6))
    for part in blocks(len(lengths)):
        kinds = _kinds(lengths.costs[part])
        for row, values in zip(sums, (lengths.costs[part], lengths.tokens[part], None), strict=True):
            row += np.bincount(kinds, values, len(row))
    return sums


def _highest(sums: Floats, cheapest_token: float, token_budget: int) -> float:
    """The highest limit with which one sample, filled up with cheap tokens, costs no more than a mean pack.

    A sample's excess over the cheapest tokens may be as much as the mean excess of a full pack.
    """
    kinds = np.flatnonzero(sums[2])
    cost, tokens, count = sums[:, kinds]
    excess = np.maximum(cost - cheapest_token * tokens, 0)
    n_packs = np.cumsum(tokens) / token_budget
    waits = np.maximum(excess / count * n_packs - np.cumsum(excess) / _MARGIN, 0)
    fits = waits <= (1 - _BUSY) / 2 * np.cumsum(cost)
    return float(_edges(kinds[fits][-1:])[0])


def _busy_on_trial(tokens: Ints, costs: Floats, packs_per_step: int, token_budget: int) -> float:
    """The busy ratio of ranks with packs of a subset of these, the costliest first; 0 if it does not fit."""
    packs_per_step = min(packs_per_step, _TRIAL_PACKS)
    full = _TRIAL_FILL * token_budget * packs_per_step
    total = float(tokens.sum(dtype=np.float64))
    if total <= full:
        return 1.0  # of one step: nothing is more level
    n_steps = min(_TRIAL_PACKS // packs_per_step, int(total / full))
    count = round(len(tokens) * n_steps * full / total)
    part = np.linspace(0, len(tokens) - 1, count).astype(np.int64)
    empty = np.zeros((n_steps, packs_per_step))
    packs = pack(tokens[part], costs[part], held=empty, spent=empty, token_budget=token_budget)
    if packs is None:
        return 0.0
    return busy(np.bincount(packs, costs[part], empty.size).reshape(empty.shape))


def _kinds(costs: Floats) -> npt.NDArray[np.int32]:
    """(N,) classes of costs, 64 an octave, in their order: the leading bits of float32."""
    return costs.astype(np.float32).view(np.int32) >> 17


def _edges(kinds: Ints) -> Floats:
    """The largest cost of the samples of a class."""
    return (((kinds.astype(np.int64) + 1) << 17) - 1).astype(np.int32).view(np.float32).astype(np.float64)
