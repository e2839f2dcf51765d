"""Distributes samples over packs of equal cost.

A pack has two loads: its tokens, bounded by the memory, and its cost, which determines the time. They are not
proportional: attention is quadratic within a sample, so a token of a long video costs several times that of
an image. Balancing the cost alone (longest processing time first) leaves some packs full of tokens while
others wait for cost; here both are steered to their means together.

Packs may already hold samples: the planner puts samples that cannot be levelled, each alone, into packs of
steps of their kind (`vitascope.feed.costly`), and the others fill these up.
"""

import numpy as np
import numpy.typing as npt

from vitascope.feed.lengths import Floats, Ints

_BY_COST = 0.1  # the last tenth of the tokens, the smallest samples, levels the costs to under 0.1 %
_NEARLY_MEAN = 0.99  # of its expected cost: a pack's limit before the last tenth
_ROUND = 4  # a round places samples on a quarter of a step's packs: 10x faster than one by one, as level
_ROOMY = 1.5  # of a sample: what a pack should lack to take it; with 1 or 2, fuller steps were less level
_BUNDLE = 4  # small samples go together, up to a quarter of what a pack lacks: rounds grow with its logarithm


def pack(
    tokens: Ints, costs: Floats, *, held: Floats, spent: Floats, token_budget: int
) -> npt.NDArray[np.int32] | None:
    """Assigns every sample to one of the packs of S steps, equal in cost within a step.

    Pack `p` belongs to step `p // G`. Samples are taken in order, roughly largest first, and go in turn to
    the steps with the fewest tokens, so that every step has the mix of sizes of the whole; within a step they
    go to the packs that most need a sample of that cost per token (see `_load`).

    Args:
        tokens: (N,) patches of each sample.
        costs: (N,) compute of each sample, in any unit.
        held, spent: (S, G) tokens and cost that each pack already holds.
        token_budget: most tokens in a pack.

    Returns:
        (N,) int32, the pack of each sample; None if the samples do not fit.
    """
    held, spent = held.astype(np.float64), spent.astype(np.float64)
    n_packs, filled = held.shape[1], held.sum(axis=1)  # (S,) of each step; whole numbers add up exactly
    level = water_level(np.sort(filled), float(tokens.sum(dtype=np.float64)))
    bundle = _bundles(tokens, int(np.count_nonzero(filled <= level)) * n_packs)
    sizes, works = np.bincount(bundle, tokens).astype(float), np.bincount(bundle, costs).astype(float)
    left_tokens, left_costs = (np.cumsum(values[::-1])[::-1] for values in (sizes, works))
    packs, done = np.empty(len(sizes), np.int32), 0
    while done < len(sizes):
        order = np.argsort(filled, kind="stable")
        level = water_level(filled[order], float(left_tokens[done]))
        lacking = (level - filled)[order]
        steps, take = _open_steps(held, order, lacking, sizes=sizes[done:], token_budget=token_budget)
        if not len(steps):
            return None
        items = done + np.arange(len(steps) * take).reshape(take, -1).T  # (K, take)
        size, work = sizes[items], works[items]
        by_cost = left_tokens[done] <= _BY_COST * left_tokens[0]
        pace = 0.0 if by_cost else float(left_costs[done] / left_tokens[done])
        to_come = np.maximum(level - filled[steps], 0) * pace
        load = _load(held[steps], spent[steps], work, pace=pace, to_come=to_come)
        load[held[steps] + size.max(axis=1, keepdims=True) > token_budget] = np.inf
        chosen = np.argsort(load, axis=1, kind="stable")[:, :take]
        held[steps[:, None], chosen] += size
        spent[steps[:, None], chosen] += work
        filled[steps] += size.sum(axis=1)
        packs[items] = steps[:, None] * n_packs + chosen
        done += items.size
    return packs[bundle]


def busy(costs: Floats | Ints) -> float:
    """The mean time of ranks with one pack each divided by the busiest one's; (S, G) costs of packs."""
    return float(costs.mean(axis=1).sum() / costs.max(axis=1).sum())


def water_level(heights: Floats | Ints, amount: float, empty: int = 0) -> float:
    """The level to which `amount` fills vessels of equal width, already filled (S,) high, the lowest first.

    Args:
        empty: the number of further, empty vessels.
    """
    heights = np.concatenate([np.zeros(min(empty, 1)), heights])
    levels = (amount + np.cumsum(heights)) / (np.arange(len(heights)) + max(empty, 1))
    return float(levels[np.flatnonzero(levels >= heights)[-1]])


def _bundles(tokens: Ints, n_packs: int) -> npt.NDArray[np.int64]:
    """(N,) the bundle of each sample: neighbours that together are a small part of a pack's remaining need.

    Bundles hold a power of two of samples, so that their sums are exact.
    """
    left = np.cumsum(tokens[::-1], dtype=np.float64)[::-1]
    count = np.maximum(left / (float(_BUNDLE * n_packs) * tokens), 1)
    share = np.ldexp(1.0, 1 - np.frexp(count)[1])  # exact, unlike a logarithm
    return np.floor(np.cumsum(share) - share).astype(np.int64)


def _open_steps(
    held: Floats, order: Ints, lacking: Floats, *, sizes: Floats, token_budget: int
) -> tuple[npt.NDArray[np.intp], int]:
    """The steps that take part in a round, in order, and the number of samples that each takes.

    First those whose packs lack the tokens of one and a half such samples: later samples can level them. Then
    those that lack any, then any with room for one, if any.

    Args:
        held: (S, G) tokens in the packs.
        order: (S,) the steps, emptiest first.
        lacking: (S,) tokens that they should still get, in that order.
        sizes: (n,) tokens of the samples to come.
    """
    n_steps, n_packs = held.shape
    most = max(1, n_packs // _ROUND)
    size = sizes[: n_steps * most].max()
    room = np.count_nonzero(held <= token_budget - size, axis=1)[order]
    levels, lacks = lacking >= _ROOMY * n_packs * size, lacking > 0
    for take, may in ((most, levels), (1, levels), (most, lacks), (1, lacks), (1, True)):
        steps = order[(room >= take) & may]
        if len(steps):
            break
    take = min(take, max(1, len(sizes) // max(1, len(steps))))
    return steps[: len(sizes) // take], take


def _load(held: Floats, spent: Floats, work: Floats, *, pace: float, to_come: Floats) -> Floats:
    """(K, G) how far each pack is ahead of its level after the samples to come.

    With the pace of the samples to come, in cost per token, `spent - pace * held` is the same for all packs
    that will reach both means together: the pack furthest behind gets the sample, and the remaining samples,
    cheaper per token as they get shorter, even it out. Packs that have reached their cost come last. For the
    last tenth of the tokens pace is 0, so that the smallest samples level the cost.

    Args:
        held, spent: (K, G) tokens and cost of the packs.
        work: (K, take) cost of the samples to place.
        to_come: (K,) remaining cost of each step.
    """
    if not pace:
        return spent.copy()
    expected = (np.cumsum(spent, axis=1)[:, -1] + to_come) / held.shape[1]
    has_it = spent + work.max(axis=1, keepdims=True) > _NEARLY_MEAN * expected[:, None]
    return np.where(has_it, expected.max() + spent.max() + spent, spent - pace * held)
