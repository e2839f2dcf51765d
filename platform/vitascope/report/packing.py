"""How a run's steps were packed, planned again."""

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.config import Settings
from vitascope.feed.lengths import Lengths
from vitascope.feed.plan import Planner, ranks_share
from vitascope.model.cost import Cost


@dataclass(frozen=True, eq=False)
class Packing:
    """The first steps of a run: tokens of each pack (S, G), cost of each rank's share (S, R)."""

    tokens: np.ndarray
    rank_costs: np.ndarray


def packing(settings: Settings, samples: pa.Table, cost: Cost, most_steps: int = 120) -> Packing:
    """Plans the run's first steps as training does, from the same lengths and seed.

    `samples` are rows of records.SAMPLES, some of them to train on.
    """
    rows = samples.filter(pc.equal(samples["split"], "train")).sort_by(
        [("shard", "ascending"), ("row", "ascending")]
    )
    sides = (rows[f"latent_{axis}"].to_numpy().astype(np.int64) for axis in ("frames", "height", "width"))
    tokens = np.prod(list(sides), axis=0) // settings.model.patch**2
    costs = np.asarray(cost.of(tokens, rows["n_text"].to_numpy()))
    planner = Planner(
        Lengths(rows["shard"].to_numpy(), tokens, costs.astype(np.float32)),
        seed=settings.run.seed,
        token_budget=settings.feed.token_budget,
        packs_per_step=settings.feed.packs_per_step,
        window_samples=settings.feed.window_samples,
    )
    steps = [plan for _, plan in islice(planner.walk(), min(most_steps, settings.train.steps))]
    ranks = settings.train.ranks
    shares = [ranks_share(settings.feed.packs_per_step, ranks, rank) for rank in range(ranks)]
    of_ranks = [[sum(plan.costs[n] for n in share if n >= 0) for share in shares] for plan in steps]
    return Packing(np.stack([plan.tokens for plan in steps]), np.array(of_ranks))
