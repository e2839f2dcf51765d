"""Deal samples to packs, equal in cost.

A pack has two loads: its tokens, which the memory bounds, and its cost, which the time follows. They do not
go together: attention is quadratic within a sample, so a token of a long video costs several times that of
an image. Balancing the cost alone (longest processing time first) leaves some packs full of tokens while
others wait for cost; here both are steered to their means at once.

Packs may hold something already: the planner puts samples that cannot be levelled, each alone, into packs of
steps of their kind (`vitascope.feed.costly`), and the others fill these up.
"""

import numpy as np
import numpy.typing as npt

from vitascope.feed.lengths import Floats, Ints

_BY_COST = 0.1  # the last tenth of the tokens, the smallest samples, levels the costs to under 0.1 %
_NEARLY_MEAN = 0.99  # of its expected cost: what a pack is filled to before the last tenth comes
_ROUND = 8  # a round places samples on an eighth of a step's packs: 5x faster than one by one, as level
ROOMY = 1.5
_BUNDLE = 8  # small samples go together, an eighth of what a pack still lacks: rounds grow with its logarithm


def pack(
    tokens: Ints, costs: Floats, *, held: Floats, spent: Floats, token_budget: int
) -> npt.NDArray[np.int32] | None:
    """Assigns every sample to one of the packs of S steps, equal in cost within a step.

    Pack `p` belongs to step `p // G`. Samples are taken in their order, which should be about largest first,
    and go in turn to the steps that hold the fewest tokens, so that every step has the mix of sizes of the
    whole; in a step they go to the packs that most want a sample so dense in cost (see `_load`).

    Args:
        tokens: (N,) patches of each sample.
        costs: (N,) compute of each sample, in any unit.
        held, spent: (S, G) tokens and cost that each pack holds already.
        token_budget: most tokens in a pack.

    Returns:
        (N,) int32, the pack of each sample; None if the samples do not fit.
    """
    bundle = _bundles(tokens, held.size)
    sizes, works = np.bincount(bundle, tokens), np.bincount(bundle, costs)
    left_tokens, left_costs = (np.cumsum(values[::-1])[::-1] for values in (sizes, works))
    held, spent = held.astype(np.float64), spent.astype(np.float64)
    packs, done = np.empty(len(sizes), np.int32), 0
    while done < len(sizes):
        filled = np.cumsum(held, axis=1)[:, -1]
        level = water_level(filled, float(left_tokens[done]))
        steps, take = _open_steps(held, level - filled, sizes[done:], token_budget)
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
        packs[items] = steps[:, None] * held.shape[1] + chosen
        done += items.size
    return packs[bundle]


def water_level(filled: Floats | Ints, amount: float, empty: int = 0) -> float:
    """How high `amount` fills vessels of one width that are filled (S,) high, and `empty` more."""
    heights = np.concatenate([[0.0] * bool(empty), np.sort(filled)])
    n_vessels = np.arange(len(heights)) + max(empty, 1)
    levels = (amount + np.cumsum(heights)) / n_vessels
    return float(levels[np.flatnonzero(levels >= heights)[-1]])


def _bundles(tokens: Ints, n_packs: int) -> npt.NDArray[np.int64]:
    """(N,) the bundle of each sample: neighbours that together are a small part of what a pack still lacks.

    Bundles hold a power of two of samples, so that their numbers are sums without rounding.
    """
    left = np.cumsum(tokens[::-1], dtype=np.float64)[::-1]
    count = np.maximum(left / (float(_BUNDLE * n_packs) * tokens), 1)
    share = np.exp2(-np.floor(np.log2(count)))
    return np.floor(np.cumsum(share) - share).astype(np.int64)


def _open_steps(
    held: Floats, lacking: Floats, sizes: Floats, token_budget: int
) -> tuple[npt.NDArray[np.intp], int]:
    """The steps that take part in a round, the emptiest first, and how many samples each takes.

    First those whose packs lack the tokens of two such samples or more: what comes later can level them. Then
    those that lack any, then any with room for one; none if there is none.

    Args:
        held: (S, G) tokens in the packs.
        lacking: (S,) tokens that each step should still get.
        sizes: (n,) tokens of the samples to come.
    """
    n_steps, n_packs = held.shape
    most = max(1, n_packs // _ROUND)
    size = sizes[: n_steps * most].max()
    room = np.count_nonzero(held + size <= token_budget, axis=1)
    levels, some = lacking >= ROOMY * n_packs * size, lacking > 0
    for take, may in ((most, levels), (1, levels), (most, some), (1, some), (1, True)):
        steps = np.flatnonzero((room >= take) & may)
        if len(steps):
            break
    steps = steps[np.argsort(np.cumsum(held[steps], axis=1)[:, -1], kind="stable")]
    take = min(take, max(1, len(sizes) // max(1, len(steps))))
    return steps[: len(sizes) // take], take


def _load(held: Floats, spent: Floats, work: Floats, *, pace: float, to_come: Floats) -> Floats:
    """(K, G) how far each pack is ahead of what the samples to come would make of it.

    With the pace of what is to come, in cost per token, `spent - pace * held` is the same for all packs that
    will end on both means together: the pack furthest behind gets the sample, and the samples still to come,
    less and less dense as they get shorter, make it up. Packs that have their cost come last. For the last
    tenth of the tokens pace is 0, so that the smallest samples level the cost.

    Args:
        held, spent: (K, G) tokens and cost of the packs.
        work: (K, take) cost of the samples to place.
        to_come: (K,) cost that each step will still get.
    """
    if not pace:
        return spent.copy()
    expected = (np.cumsum(spent, axis=1)[:, -1] + to_come) / held.shape[1]
    has_it = spent + work.max(axis=1, keepdims=True) > _NEARLY_MEAN * expected[:, None]
    return np.where(has_it, expected.max() + spent.max() + spent, spent - pace * held)
