"""Fill packs, equal in cost, within a budget.

A pack has two loads: its tokens, which the memory bounds, and its cost, which the time follows. They do not
go together: attention is quadratic within a sample, so a token of a long video costs several times that of
an image. Balancing the cost alone (longest processing time first) leaves some packs full of tokens while
others wait for cost; here both are steered to their means at once.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]

_BY_COST = 0.1  # the last tenth of the tokens, the smallest samples, levels the costs to under 0.1 %
_NEARLY_MEAN = 0.99  # of the mean cost: what a pack is filled to before the last tenth comes
_ROUND = 8  # a round places samples on an eighth of a step's packs: 5x faster than one by one, as level


def pack(
    tokens: Ints, costs: Floats, *, n_steps: int, packs_per_step: int, token_budget: int
) -> npt.NDArray[np.int32] | None:
    """Assigns every sample to one of `n_steps * packs_per_step` packs, equal in cost within a step.

    Pack `p` belongs to step `p // packs_per_step`. Samples are taken in their order, which should be about
    largest first, and dealt to the steps in turn, the first to the step with the fewest tokens, so that every
    step has the mix of sizes of the whole; in a step they go to the packs that most want a sample so dense in
    cost (see `_pace`).

    Args:
        tokens: (N,) patches of each sample.
        costs: (N,) compute of each sample, in any unit.
        token_budget: most tokens in a pack.

    Returns:
        (N,) int32, the pack of each sample; None where the samples do not fit so few packs.
    """
    n = len(tokens)
    take = max(1, packs_per_step // _ROUND)
    n_rounds = -(-n // (n_steps * take))
    rounds = (n_rounds, take, n_steps)
    sizes = _dealt(tokens, rounds)
    works = _dealt(costs, rounds)
    pace = _pace(sizes, works)
    total = float(np.cumsum(costs)[-1])
    held = np.zeros((n_steps, packs_per_step))  # tokens in each pack
    spent = np.zeros((n_steps, packs_per_step))  # cost of each pack
    first_pack = np.arange(n_steps)[:, None] * packs_per_step
    where = np.empty((n_rounds, n_steps, take), np.int32)
    for r in range(n_rounds):
        turn = np.argsort(np.argsort(held.sum(axis=1), kind="stable"), kind="stable")  # a row for each step
        size, work = sizes[r, turn], works[r, turn]
        load = spent
        if pace[r]:
            done = spent + work.max(axis=1, keepdims=True) > _NEARLY_MEAN * total / held.size
            load = np.where(done, total + spent, spent - pace[r] * held)
        chosen = _choose(held, load, size, token_budget)
        if chosen is None:
            return None
        packs = first_pack + chosen
        held.reshape(-1)[packs] += size
        spent.reshape(-1)[packs] += work
        where[r, turn] = packs
    return where.transpose(0, 2, 1).reshape(-1)[:n]


def equal_cost_budget(tokens: Ints, costs: Floats) -> int:
    """The least token budget at which full packs can be equal in cost.

    A pack with the costliest sample, filled up with the cheapest tokens there are, must not weigh more than
    the mean pack: that sample's excess over cheap tokens is at most the mean excess of a full pack. A quarter
    is added: with a tenth, packs of 64 ranks still differed by 1 %, with a quarter by 0.04 %.
    """
    cheapest = float((costs / tokens).min())
    heaviest = int(np.argmax(costs - cheapest * tokens))
    mean_excess = float(costs.sum()) / int(tokens.sum()) - cheapest
    excess = float(costs[heaviest]) - cheapest * int(tokens[heaviest])
    return int(
        max(tokens.max(), np.ceil(1.25 * excess / mean_excess) if mean_excess > 1e-9 * cheapest else 0)
    )


def _dealt(values: Ints | Floats, rounds: tuple[int, int, int]) -> Floats:
    """(N,) values as (round, step, sample of the step): a round deals along the steps first; 0 where none."""
    padded = np.zeros(rounds)
    padded.reshape(-1)[: len(values)] = values
    return np.ascontiguousarray(padded.transpose(0, 2, 1))


def _pace(sizes: Floats, works: Floats) -> Floats:
    """(R,) cost per token of all samples that come at round r or later; 0 for the last ones.

    `cost - pace * tokens` says how far a pack is ahead of what the samples to come would make of it: with
    equal means to reach, the pack furthest behind gets the sample, and all those still to come, less and
    less dense as they get shorter, end on both means together. For the last tenth of the tokens pace is 0,
    so that the smallest samples level the cost.
    """
    left_tokens = np.cumsum(sizes.sum(axis=(1, 2))[::-1])[::-1]
    left_cost = np.cumsum(works.sum(axis=(1, 2))[::-1])[::-1]
    return np.where(left_tokens > _BY_COST * left_tokens[0], left_cost / left_tokens, 0.0)


def _choose(held: Floats, load: Floats, size: Floats, token_budget: int) -> npt.NDArray[np.intp] | None:
    """(S, take) packs with room: the least loaded of each step, in order; None where there is no room.

    Args:
        held: (S, G) tokens in the packs.
        load: (S, G) what to level.
        size: (S, take) tokens to place.
    """
    take = size.shape[1]
    largest = size.max(axis=1, keepdims=True)
    if held.max() + largest.max() <= token_budget:
        return np.argsort(load, axis=1, kind="stable")[:, :take]
    full = held + largest > token_budget
    chosen = np.argsort(np.where(full, np.inf, load), axis=1, kind="stable")[:, :take]
    for step in np.flatnonzero(full.shape[1] - full.sum(axis=1) < take):
        singly = _choose_singly(held[step], load[step], size[step], token_budget)
        if singly is None:
            return None
        chosen[step] = singly
    return chosen


def _choose_singly(held: Floats, load: Floats, size: Floats, token_budget: int) -> list[int] | None:
    """`_choose` for a step where few packs have room: one sample at a time, packs distinct."""
    load = load.copy()
    chosen = []
    for tokens in size:
        room = np.where(held + tokens > token_budget, np.inf, load)
        best = int(np.argmin(room))
        if np.isinf(room[best]):
            return None
        chosen.append(best)
        load[best] = np.inf
    return chosen
