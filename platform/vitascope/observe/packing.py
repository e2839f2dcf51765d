"""How a run's steps were packed, planned again."""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from vitascope.feed.plan import Lengths, Planner, ranks_share
from vitascope.model.card import ModelCard
from vitascope.model.cost import cost_of
from vitascope.observe.results import Results


@dataclass(frozen=True, eq=False)
class Packing:
    """The first steps of a run: tokens of each pack (S, G), cost of each rank's share (S, R)."""

    tokens: np.ndarray
    rank_costs: np.ndarray


def packing(results: Results, card: ModelCard, most_steps: int = 120) -> Packing:
    """Plans the run's first steps as training did, from the same lengths and seed."""
    settings = results.settings
    rows = [row for row in results.samples if row["split"] == "train"]
    rows.sort(key=lambda row: (row["shard"], row["row"]))
    column = {name: np.array([row[name] for row in rows]) for name in ("sample_id", "shard", "n_text")}
    tokens = np.array([row["latent_frames"] * row["latent_height"] * row["latent_width"] for row in rows])
    tokens //= card.model.patch**2
    cost = cost_of(card.model, card.channels, card.text_dim)
    planner = Planner(
        Lengths(column["sample_id"], column["shard"], tokens, np.asarray(cost.of(tokens, column["n_text"]))),
        seed=settings.run.seed,
        token_budget=settings.feed.token_budget,
        packs_per_step=settings.feed.packs_per_step,
        window_samples=settings.feed.window_samples,
    )
    steps = [plan for _, plan in islice(planner.walk(), min(most_steps, settings.train.steps))]
    ranks = settings.train.ranks
    shares = [ranks_share(settings.feed.packs_per_step, ranks, rank) for rank in range(ranks)]
    costs = [[sum(plan.costs[n] for n in share if n >= 0) for share in shares] for plan in steps]
    return Packing(np.stack([plan.tokens for plan in steps]), np.array(costs))
