"""Sent in the batch's order, requests let all replicas end together."""

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vitascope.generate.batch.order import WINDOW, order

BENCH = Path(__file__).parents[2] / "jobs" / "bench" / "makespan.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("makespan", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_request_has_its_turn_the_costliest_first_and_equals_in_order() -> None:
    costs = np.random.default_rng(0).integers(1, 20, 500)
    found = order(costs)
    assert sorted(found) == list(range(500))
    assert (np.diff(costs[found]) <= 0).all()
    same = [found[costs[found] == cost] for cost in np.unique(costs)]
    assert all((np.diff(positions) > 0).all() for positions in same)
    assert len(order([])) == 0


@pytest.mark.parametrize("seed", range(2))
def test_the_last_replica_ends_at_most_five_per_cent_late(bench: ModuleType, seed: int) -> None:
    found = bench.ratios(seed)
    assert {name: ours for name, (ours, _) in found.items() if ours > 1.05} == {}
    assert max(files for _, files in found.values()) > 1.2  # the order is what does it


@pytest.mark.parametrize(("in_flight", "expected"), [(1, 18), (2, 10), (100, 10)])
def test_the_simulation_is_right_where_it_can_be_seen(
    bench: ModuleType, in_flight: int, expected: float
) -> None:
    costs = np.array([5.0, 4, 3, 3, 3])
    assert bench.makespan(costs, 2, in_flight) == expected
    assert bench.bound(costs, 2) == 9
    assert bench.makespan(costs, 1, in_flight) == 18


def test_the_order_of_a_hundred_thousand_takes_well_under_a_second(bench: ModuleType) -> None:
    costs = bench.DISTRIBUTIONS["uniform"](np.random.default_rng(0), 100_000)
    started = time.process_time()
    sent = bench.in_windows(costs)
    assert time.process_time() - started < 1
    moved = np.abs(np.argsort(np.argsort(-sent[:WINDOW])) - np.arange(WINDOW))
    assert moved.max() == 0
    assert bench.makespan(sent, 64, 256) <= 1.05 * bench.bound(costs, 64)
