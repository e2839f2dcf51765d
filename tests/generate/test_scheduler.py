"""Which requests join the next pass: the budget holds, none starves, the oldest is never delayed."""

import random

import pytest

from vitascope.generate.denoise.scheduler import Load, admit, check
from vitascope.ledger import Reason, Rejected

BUDGET = 100


def simulate(arrivals: list[tuple[int, Load]], *, strict: bool = False) -> list[int]:
    """The pass in which each request (arriving before a given pass) starts; checks the budget on the way."""
    starts = [-1] * len(arrivals)
    running: dict[int, Load] = {}
    for now in range(10_000):
        waiting = [i for i, (at, _) in enumerate(arrivals) if at <= now and starts[i] < 0]
        loads = [arrivals[i][1] for i in waiting]
        joined = admit(list(running.values()), loads, BUDGET)
        if strict:
            joined = [i for place, i in enumerate(joined) if place == i]
        for i in joined:
            starts[waiting[i]] = now
            running[waiting[i]] = loads[i]
        assert sum(load.n_tokens for load in running.values()) <= BUDGET
        running = {i: Load(r.n_tokens, r.n_passes - 1) for i, r in running.items() if r.n_passes > 1}
        if min(starts) >= 0 and not running:
            return starts
    raise AssertionError("somebody never started")


def workload(seed: int) -> list[tuple[int, Load]]:
    rng = random.Random(seed)
    arrivals = sorted(rng.randrange(40) for _ in range(60))
    return [(at, Load(rng.randint(1, BUDGET), rng.randint(1, 20))) for at in arrivals]


@pytest.mark.parametrize("seed", range(20))
def test_everybody_starts_within_the_budget(seed: int) -> None:
    assert all(start >= 0 for start in simulate(workload(seed)))


@pytest.mark.parametrize("seed", range(20))
def test_filling_gaps_never_delays_the_oldest(seed: int) -> None:
    rng = random.Random(seed)
    running, free = [], BUDGET
    while (n := rng.randint(5, 40)) <= free:
        running.append(Load(n, rng.randint(1, 20)))
        free -= n
    oldest = Load(rng.randint(free + 1, BUDGET), 5)
    alone = simulate([(0, r) for r in running] + [(0, oldest)])
    others = [Load(rng.randint(1, BUDGET), rng.randint(1, 20)) for _ in range(30)]
    crowded = simulate([(0, load) for load in [*running, oldest, *others]])
    assert crowded[len(running)] == alone[len(running)]


def test_gaps_are_filled() -> None:
    waits = {True: 0, False: 0}
    for strict in waits:
        waits[strict] = sum(sum(simulate(workload(seed), strict=strict)) for seed in range(20))
    assert waits[False] < waits[True]


def test_they_join_in_order_while_they_fit() -> None:
    assert admit([Load(40, 3)], [Load(30, 9), Load(30, 9), Load(1, 9)], BUDGET) == [0, 1]
    assert admit([], [], BUDGET) == []


def test_a_short_one_overtakes_and_a_long_one_does_not() -> None:
    running, big = [Load(80, 5)], Load(100, 2)
    assert admit(running, [big, Load(20, 5)], BUDGET) == [1]
    assert admit(running, [big, Load(20, 6)], BUDGET) == []
    assert admit(running, [Load(90, 2), Load(10, 99)], BUDGET) == [1]  # fits next to it for good


def test_what_no_pass_holds_is_refused_at_entry() -> None:
    check(Load(BUDGET, 1), BUDGET)
    with pytest.raises(Rejected) as refused:
        check(Load(BUDGET + 1, 1), BUDGET)
    assert refused.value.reason == Reason.TOO_MANY_TOKENS
