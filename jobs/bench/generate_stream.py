"""Requests that arrive at random, small ones next to large ones."""

import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import prod
from typing import Any

from generate_model import SIZES, Bench, Passes, advanced, in_a_thread, large, seconds

from vitascope.generate.denoise.engine import Denoiser
from vitascope.generate.denoise.sampler import Work


@dataclass(frozen=True)
class Arrival:
    """A request of the stream: when it comes, from the beginning, and which of the two sizes it has."""

    at_s: float
    small: bool
    work: Work


def poisson(bench: Bench, n_small: int) -> dict[str, Any]:
    """Small requests with and without large ones, which take a pass of twice the budget."""
    smallest = min(SIZES, key=prod)
    shapes = {True: (smallest, 6), False: (large(bench, 2.0), 6)}
    alone_s = {}
    for small, (size, steps) in shapes.items():
        each = [
            in_a_thread(seconds, lambda s=size, n=steps: advanced(bench.experts, [bench.work(s, steps=n)]))
            for _ in "12345"
        ]
        alone_s[small] = statistics.median(each)
    rng, arrivals = random.Random(0), []
    for small, load in ((True, 0.3), (False, 0.4)):
        now, size, steps = 0.0, *shapes[small]
        end = n_small * alone_s[True] / 0.3
        while (now := now + rng.expovariate(load / alone_s[small])) < end:
            arrivals.append(Arrival(now, small, bench.work(size, steps=steps, at=len(arrivals))))
    arrivals.sort(key=lambda arrival: arrival.at_s)
    only = [arrival for arrival in arrivals if arrival.small]
    runs = [(streamed(bench, only), streamed(bench, arrivals)) for _ in range(2)]
    quiet, mixed = (_joined([run[i] for run in runs]) for i in (0, 1))
    fifo = [_p95(first_in_first_out(stream, alone_s)) for stream in (only, arrivals)]
    return {
        "p95_small_over_alone": round(_p95(mixed[1]) / _p95(quiet[1]), 2),
        "p95_small_over_alone_fifo": round(fifo[1] / fifo[0], 2),
        "small_alone_ms": round(1000 * alone_s[True], 1),
        "large_alone_ms": round(1000 * alone_s[False], 1),
        "small_p95_ms": [round(1000 * _p95(part[1]), 1) for part in (quiet, mixed)],
        "small_wait_for_first_step_p95_ms": [round(1000 * _p95(part[0]), 1) for part in (quiet, mixed)],
        "large_p95_ms": round(1000 * _p95(mixed[2]), 1),
    }


def streamed(bench: Bench, arrivals: Sequence[Arrival]) -> tuple[list[float], list[float], list[float]]:
    """Small ones' seconds to the first step and to the end, and large ones' to the end."""
    model = Passes(bench.experts)
    denoiser = Denoiser(model, token_budget=bench.budget, max_tokens=10**6)  # type: ignore[arg-type]
    ended: dict[int, float] = {}
    began, futures = time.perf_counter(), list[Future[Work]]()
    for i, arrival in enumerate(arrivals):
        time.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
        futures.append(denoiser.submit(arrival.work))
        futures[-1].add_done_callback(lambda _, i=i: ended.__setitem__(i, time.perf_counter()))
    for future in futures:
        future.result()
    denoiser.close()
    firsts = [model.first_s[id(a.work.text)] - began - a.at_s for a in arrivals if a.small]
    whole = {
        small: [ended[i] - began - a.at_s for i, a in enumerate(arrivals) if a.small is small]
        for small in (True, False)
    }
    return firsts, whole[True], whole[False]


def _joined(runs: Sequence[tuple[list[float], ...]]) -> list[list[float]]:
    return [[value for part in parts for value in part] for parts in zip(*runs, strict=True)]


def first_in_first_out(arrivals: Sequence[Arrival], alone_s: dict[bool, float]) -> list[float]:
    """Small ones' seconds to the end if each request has the machine until it ends."""
    now, ends = 0.0, list[float]()
    for arrival in arrivals:
        now = max(now, arrival.at_s) + alone_s[arrival.small]
        if arrival.small:
            ends.append(now - arrival.at_s)
    return ends


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))] if values else float("nan")
