"""Which request goes next, and to which replica."""

import heapq
import random
from collections.abc import Callable

import pytest

from vitascope.generate.app.shares import Held, Report, Takes, first, ranked


def test_the_replica_with_the_least_work_and_enough_room_is_first() -> None:
    replicas = [Held(10.0) for _ in range(4)]
    replicas[0].sent("a", Takes(5.0, 4.0))
    replicas[1].sent("b", Takes(1.0, 11.0))
    replicas[2].sent("c", Takes(3.0, 9.0))
    assert ranked(Takes(1.0, 6.0), replicas) == [3, 2, 0], "the last one may exceed the room"
    replicas[2].sent("d", Takes(3.0, 6.0))
    assert ranked(Takes(1.0, 100.0), replicas) == [3, 0]
    assert ranked(Takes(1.0), replicas) == [3, 1, 0, 2], "what takes no room fits everywhere"
    replicas[1].sent("b", Takes(1.0, 11.0))
    replicas[1].ended("b")
    assert ranked(Takes(1.0, 7.0), replicas) == [3, 0], "two of one id, of which one has ended"
    replicas[1].ended("b")
    replicas[1].ended("b")
    assert ranked(Takes(1.0, 7.0), replicas) == [1, 3, 0]


def test_other_callers_requests_count_and_ones_own_not_twice() -> None:
    held = Held(10.0)
    held.sent("a", Takes(5.0, 4.0, "me"))
    held.reports(Report(20.0, {"me": (500.0, {(): 400.0}), "she": (7.0, {(): 15.0})}), "me")
    assert held.cost == 12.0
    assert held.fits(Takes(1.0, 10.0))
    held.sent("b", Takes(1.0, 1.0, "me"))
    assert not held.fits(Takes(1.0, 10.0))


def test_the_oldest_goes_first_unless_one_takes_no_room() -> None:
    def all_fit(_: Takes) -> bool:
        return True

    assert first([Takes(9.0, 9.0), Takes(1.0, 1.0)], all_fit) == 0
    assert first([Takes(9.0, 9.0), Takes(1.0, 1.0), Takes(1.0)], all_fit) == 2
    urgent = Takes(1.0, 1.0, priority=3)
    assert first([Takes(9.0, 9.0), urgent, urgent, Takes(1.0, 1.0, priority=2)], all_fit) == 1


def test_a_lane_that_is_full_holds_up_its_own_requests_only() -> None:
    held = Held(10.0)
    held.sent("a", Takes(900.0, 12.0, lane=(4,)))
    held.reports(Report(10.0, {"she": (7.0, {(1,): 10.0})}), "me")
    large, small = Takes(900.0, 8.0, priority=1, lane=(4,)), Takes(20.0, 2.0, lane=(2,))
    assert [held.fits(takes) for takes in (large, small, Takes(5.0, 2.0, lane=(1,)))] == [False, True, False]
    assert first([large, Takes(300.0, 1.0, lane=(4,)), small, small], held.fits) == 2
    assert first([large, large], held.fits) == 0


def by_cost(costs: list[float], n: int) -> float:
    """The makespan if replicas take one request at a time, and one more waits at each (room 2)."""
    held = [Held(2.0) for _ in range(n)]
    queues: list[list[tuple[str, float]]] = [[] for _ in range(n)]
    running: list[tuple[float, int]] = []
    waiting, now = list(enumerate(costs)), 0.0
    while waiting or running:
        while waiting and (order := ranked(Takes(waiting[0][1], 1.0), held)):
            number, cost = waiting.pop(0)
            held[order[0]].sent(str(number), Takes(cost, 1.0))
            queues[order[0]].append((str(number), cost))
            if len(queues[order[0]]) == 1:
                heapq.heappush(running, (now + cost, order[0]))
        now, replica = heapq.heappop(running)
        held[replica].ended(queues[replica].pop(0)[0])
        if queues[replica]:
            heapq.heappush(running, (now + queues[replica][0][1], replica))
    return now


def by_number(costs: list[float], n: int) -> float:
    """The makespan if each request goes at once to the replica with the fewest, as many in flight as fit."""
    in_flight = 8 * n
    ends: list[list[float]] = [[] for _ in range(n)]
    free, now = [0.0] * n, 0.0
    for cost in costs:
        while sum(map(len, ends)) >= in_flight:
            now = min(min(one) for one in ends if one)
            ends = [[end for end in one if end > now] for one in ends]
        fewest = min(range(n), key=lambda i: len(ends[i]))
        free[fewest] = max(now, free[fewest]) + cost
        ends[fewest].append(free[fewest])
    return max(free)


@pytest.mark.parametrize("n", [4, 16])
@pytest.mark.parametrize("order", [lambda costs: costs, lambda costs: sorted(costs, reverse=True)])
def test_by_cost_a_batch_ends_sooner_than_by_number(
    n: int, order: Callable[[list[float]], list[float]]
) -> None:
    """Costs spread 20 times; the bound is what no schedule is better than."""
    over = {by_cost: [], by_number: []}  # type: dict[Callable[[list[float], int], float], list[float]]
    for seed in range(20):
        rng = random.Random(seed)
        costs = order([20.0 ** rng.random() for _ in range(40 * n)])
        bound = max(sum(costs) / n, max(costs))
        for how, ratios in over.items():
            ratios.append(how(costs, n) / bound - 1)
    mean = {how.__name__: sum(ratios) / len(ratios) for how, ratios in over.items()}
    assert mean["by_cost"] < 0.08, mean
    assert mean["by_cost"] < 0.6 * mean["by_number"], mean
    if order([1.0, 2.0]) == [2.0, 1.0]:
        assert max(over[by_cost]) < 0.05, "sorted, as a batch sends them"
