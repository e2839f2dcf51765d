"""How nearly the replicas of a batch finish together: simulated, against a lower bound.

    python jobs/bench/makespan.py

Costs spread 20-fold. Requests are sent in the batch's order, or in the file's, each to the replica with the
least outstanding cost, a number of them in flight; a replica works off what it has. No schedule ends before
each replica had its part of the work, or before the costliest request could be made.
"""

import heapq
import json
import time
from collections.abc import Callable

import numpy as np

from vitascope.generate.batch.order import WINDOW, order

Costs = np.ndarray
SPREAD = 20.0
REPLICAS = (1, 2, 4, 8, 16, 32, 64)
PER_REPLICA = (32, 200, 1500)
IN_FLIGHT = 4  # for each replica

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], Costs]] = {
    "uniform": lambda rng, n: rng.uniform(1, SPREAD, n),
    "as many of each size": lambda rng, n: SPREAD ** rng.uniform(0, 1, n),
    "three sizes": lambda rng, n: rng.choice([1.0, 4.0, SPREAD], n, p=[0.6, 0.3, 0.1]),
    "few large": lambda rng, n: np.where(rng.random(n) < 0.02, SPREAD, 1.0),
    "few small": lambda rng, n: np.where(rng.random(n) < 0.02, 1.0, SPREAD),
    "heavy tail": lambda rng, n: np.minimum(SPREAD, 1 + rng.pareto(1.1, n)),
    "growing": lambda _, n: np.linspace(1, SPREAD, n),  # the costliest are last in the file
    "equal": lambda _, n: np.ones(n),
}


def in_windows(costs: Costs) -> Costs:
    """The costs in the order in which a batch sends its requests."""
    parts = [costs[begin : begin + WINDOW] for begin in range(0, len(costs), WINDOW)]
    return np.concatenate([part[order(part)] for part in parts])


def makespan(costs: Costs, replicas: int, in_flight: int) -> float:
    """The time at which the last of these requests ends, sent in this order."""
    free, ends, now = [0.0] * replicas, [], 0.0
    for cost in costs.tolist():
        if len(ends) == in_flight:
            now = max(now, heapq.heappop(ends))
        end = max(now, free[0]) + cost  # the replica that is free first has the least to do
        heapq.heapreplace(free, end)
        heapq.heappush(ends, end)
    return max(free)


def bound(costs: Costs, replicas: int) -> float:
    """A time that no schedule ends before."""
    return max(float(costs.sum()) / replicas, float(costs.max()))


def ratios(seed: int = 0) -> dict[str, tuple[float, float]]:
    """The worst makespan over the bound, by distribution: in the batch's order, and in the file's."""
    found = {}
    for name, sample in DISTRIBUTIONS.items():
        worst = [0.0, 0.0]
        for replicas in REPLICAS:
            for per_replica in PER_REPLICA:
                costs = sample(np.random.default_rng(seed), replicas * per_replica)
                least = bound(costs, replicas)
                for index, sent in enumerate((in_windows(costs), costs)):
                    ratio = makespan(sent, replicas, IN_FLIGHT * replicas) / least
                    worst[index] = max(worst[index], ratio)
        found[name] = (worst[0], worst[1])
    return found


def main() -> None:
    """Prints a table, and one JSON object in the last line."""
    found = ratios()
    print(f"{'costs':<22} in our order  in the file's")
    for name, (ours, files) in found.items():
        print(f"{name:<22} {ours:12.4f} {files:14.4f}")
    costs = DISTRIBUTIONS["uniform"](np.random.default_rng(0), 100_000)
    started = time.perf_counter()
    in_windows(costs)
    seconds = time.perf_counter() - started
    ours, files = (max(pair[i] for pair in found.values()) for i in (0, 1))
    print(json.dumps({"worst_ratio": ours, "worst_ratio_in_file_order": files, "order_100k_s": seconds}))


if __name__ == "__main__":
    main()
