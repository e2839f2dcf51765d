"""Measures requests that share passes against one request at a time and against same-shape batches.

    python jobs/bench/generate.py [--rounds 5] [--threads 2] [--steps 4 6 8] [--plot FILE] [--parts below …]

The model is a small DiT with random weights, on a CPU in float32. Its saturation point is measured first,
with one thread in processor time.

below: 64 requests of 6 sizes, 3 step counts and 4 modes, half of them guided, each far below saturation.
    Three ways take turns, in an order that rotates: our engine with all requests at once; one request at a
    time, in a plain loop over its steps; batches of the requests that have the same size, steps and guidance.
    Network, solver and passes are the same code. `equal` says whether the latents of the first two differ by
    1e-5 at most, `largest_difference` by how much.
above: requests whose passes each exceed the saturation point, with the engine and one at a time.
poisson: requests of the smallest size arrive at random, for 30 % of the time that they take alone; then the
    same together with requests of the largest size, for 40 % of the time. p95_small_over_alone is the small
    ones' 95th percentile of the time from arrival to end, with the large ones over without. The same with
    first in, first out, one at a time, follows from the times that each takes alone.
app: requests through a local Ray Serve app, once it runs, against the same parts called in this process one
    after another: text, engine, decoding, signing, writing. app_overhead is that of one request at a time, in
    which no stage can hide behind another; app_together_over_parts is of 8 at once.

The last line is one JSON object. Ratios are medians of those within each round, `_quartiles` are theirs, and
`_cpu` is of this process's processor time, for machines with other work.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from generate_app import app
from generate_model import (
    SIZES,
    Bench,
    Passes,
    advanced,
    in_a_thread,
    in_engine,
    large,
    make_card,
    make_network,
)
from generate_stream import poisson

from vitascope.generate.denoise.experts import Experts
from vitascope.generate.denoise.sampler import Work
from vitascope.generate.denoise.saturation import measured, passes, saturation
from vitascope.model.networks import cost_of

N_REQUESTS = 64
PARTS = ("below", "above", "poisson", "app")


def one_at_a_time(model: Any, works: Sequence[Work], _: float) -> list[Work]:
    """Each request alone."""
    return [advanced(model, [work])[0] for work in works]


def in_batches(model: Any, works: Sequence[Work], budget: float) -> list[Work]:
    """Batches of requests of the same size, steps and guidance, as large as the budget allows."""
    groups: dict[Any, list[Work]] = defaultdict(list)
    for work in works:
        groups[work.grid, len(work.schedule.experts), work.guidance].append(work)
    done: list[Work] = []
    for group in groups.values():
        most = max(1, int(budget / (group[0].n_tokens * model.weight(prod(group[0].grid)))))
        for start in range(0, len(group), most):
            done += advanced(model, group[start : start + most])
    return done


WAYS: dict[str, Callable[[Any, Sequence[Work], float], list[Work]]] = {
    "ours": in_engine,
    "one_at_a_time": one_at_a_time,
    "static_batches": in_batches,
}


def compared(bench: Bench, works: Sequence[Work], ways: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds, processor seconds and passes of each way, which take turns; a first round warms up."""
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    logs: dict[str, Passes] = {}
    done: dict[str, list[Work]] = {}
    for turn in range(rounds + 1):
        for way in [*ways[turn % len(ways) :], *ways[: turn % len(ways)]]:
            logs[way] = Passes(bench.experts)
            wall, cpu = time.perf_counter(), time.process_time()
            done[way] = in_a_thread(WAYS[way], logs[way], works, bench.budget)
            if turn:
                times[way].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {"times": times, "logs": logs, "done": done}


def ratio(times: dict[str, list[tuple[float, float]]], other: str, name: str) -> dict[str, Any]:
    """How many times as fast as `other` we are."""
    pairs = list(zip(times["ours"], times[other], strict=True))
    wall, cpu = (statistics.median(theirs[i] / ours[i] for ours, theirs in pairs) for i in (0, 1))
    each = sorted(theirs[0] / ours[0] for ours, theirs in pairs)
    quartiles = [each[len(each) // 4], each[-1 - len(each) // 4]]
    return {
        name: round(wall, 3),
        f"{name}_cpu": round(cpu, 3),
        f"{name}_quartiles": [round(q, 3) for q in quartiles],
    }


def below(bench: Bench, rounds: int, steps: Sequence[int], plot: str | None) -> dict[str, Any]:
    """Small requests, in three ways."""
    works = [
        bench.work(SIZES[i % 6], steps=steps[i // 6 % 3], guidance=1.0 + 3 * (i % 2), at=i // 2)
        for i in range(N_REQUESTS)
    ]
    found = compared(bench, works, list(WAYS), rounds)
    pairs = zip(found["done"]["ours"], found["done"]["one_at_a_time"], strict=True)
    largest = max(float((a.tokens - b.tokens).abs().max()) for a, b in pairs)
    if plot:
        draw(found["logs"], bench.budget, plot)
    occupancies = {
        way: round(statistics.mean(cost for _, cost in log.log) / bench.budget, 3)
        for way, log in found["logs"].items()
    }
    return {
        **ratio(found["times"], "one_at_a_time", "ratio_to_one_at_a_time"),
        **ratio(found["times"], "static_batches", "ratio_to_static_batches"),
        "requests_per_s": round(N_REQUESTS / statistics.median(t for t, _ in found["times"]["ours"]), 2),
        "passes": {way: len(log.log) for way, log in found["logs"].items()},
        "occupancy": occupancies,
        "equal": largest <= 1e-5,
        "largest_difference": largest,
    }


def above(bench: Bench, rounds: int) -> dict[str, Any]:
    """Requests that saturate the machine alone."""
    works = [bench.work(large(bench, 1.2 + 0.4 * (i % 3)), steps=3, at=i) for i in range(6)]
    times = compared(bench, works, ["ours", "one_at_a_time"], rounds)["times"]
    return ratio(times, "one_at_a_time", "ratio_above_saturation")


def draw(logs: dict[str, Passes], budget: float, path: str) -> None:
    """The cost of every pass over that of a saturating one, by time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(logs), 1, sharex=True, figsize=(9, 6), layout="constrained")
    for axis, (way, passed) in zip(axes, logs.items(), strict=True):
        began = passed.log[0][0]
        axis.step(
            [at - began for at, _ in passed.log], [cost / budget for _, cost in passed.log], where="post"
        )
        axis.set(title=f"{way}: {len(passed.log)} passes", ylabel="occupancy", ylim=(0, 1.3))
        axis.axhline(1, linewidth=0.5, color="grey")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Measures, and prints every part's figures as JSON, and all of them on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--steps", type=int, nargs=3, default=[4, 6, 8])
    parser.add_argument("--arrivals", type=int, default=60, help="of small requests")
    parser.add_argument("--plot", help="PNG of the occupancy")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    card = make_card(given.depth, given.width)
    cost = cost_of(card.model, card.channels, card.text_dim)
    experts = Experts([make_network(card)], squared=cost.per_token_squared / cost.per_token)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    points = in_a_thread(measured, passes(experts, card), 16_384, clock=clock)
    bench = Bench(card, experts, saturation(points).cost)
    result: dict[str, Any] = {
        "saturation": round(bench.budget),
        "passes_ms": [(round(c), round(1000 * s, 2)) for c, s in points],
    }
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "below": lambda: below(bench, given.rounds, given.steps, given.plot),
        "above": lambda: above(bench, given.rounds),
        "poisson": lambda: poisson(bench, given.arrivals),
        "app": lambda: app(bench, given.rounds),
    }
    for name in given.parts:
        found = parts[name]()
        print(json.dumps(found), flush=True)
        result |= found
    print(json.dumps(result))


if __name__ == "__main__":
    main()
