"""Who is in the next pass: it is full, nobody starves, and many that wait cost nothing."""

import time
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitascope.generate.denoise.scheduler import Deadline, Load, Need, Queue, Room, admit, check
from vitascope.ledger import Reason, Rejected

ROOM = Room(n_tokens=400, cost=100.0)


def needs(*costs: float) -> list[Need]:
    return [Need(int(cost), cost) for cost in costs]


def test_what_no_pass_holds_is_refused_at_entry() -> None:
    check(Load(100, 1), 100)
    with pytest.raises(Rejected) as refused:
        check(Load(101, 1), 100)
    assert refused.value.reason == Reason.TOO_MANY_TOKENS


@pytest.mark.parametrize(
    ("waiting", "joined"),
    [
        ([], []),
        (needs(40, 30, 30, 10), [0, 1, 2]),
        (needs(40, 70, 30, 40), [0, 2]),  # one that does not fit is passed over
        (needs(300), [0]),  # larger than a saturating pass: alone,
        (needs(300, 100, 20, 10), [0, 2, 3]),  # or with a few small ones
        (needs(500, 20), [0]),  # but the memory holds no more
        (needs(60, 500), [0]),
        ([Need(10, 10, 1), Need(10, 10, 0), Need(10, 10, 1)], [0, 2]),  # of one expert
        ([Need(10, 80), Need(10, 30), Need(10, 20)], [0, 2]),  # by cost, not by patches
    ],
)
def test_a_pass_is_led_by_the_first_and_filled_in_order(waiting: list[Need], joined: list[int]) -> None:
    assert admit(waiting, ROOM) == joined


@dataclass(eq=False)
class Item:
    """A request of a simulation."""

    cost: float
    n_passes: int
    arrives: float = 0.0
    ended: float = -1.0
    done: int = 0

    @property
    def alone_s(self) -> float:
        """The device time of its passes if it leads them, with whom it may take along."""
        return self.n_passes * max(ROOM.cost, 1.125 * self.cost)


def simulated(items: list[Item], queue: Queue[Item] | None = None) -> list[Item]:
    """The requests in the order of their ends, on a device whose time is that of the cost."""
    queue, now, ended = queue or Queue(), 0.0, list[Item]()
    to_come = sorted(items, key=lambda item: item.arrives)
    while to_come or queue:
        while to_come and (to_come[0].arrives <= now or not queue):
            now = max(now, to_come[0].arrives)
            item = to_come.pop(0)
            queue.add(item, item.cost * item.n_passes)
        seen = list(queue.view(now))
        pack = [seen[i] for i in admit(needs(*(item.cost for item in seen)), replace(ROOM, n_tokens=10**6))]
        device_time = ROOM.device_time(sum(item.cost for item in pack))
        queue.led(pack[0], device_time)
        now += device_time
        for item in pack:
            item.done += 1
            if item.done == item.n_passes:
                item.ended = now
                ended.append(item)
                queue.remove(item)
    return ended


SIZES = st.sampled_from([1.0, 5.0, 30.0, 99.0, 150.0, 900.0])
ITEMS = st.builds(
    Item, cost=SIZES, n_passes=st.integers(1, 40), arrives=st.floats(0, 20_000, allow_nan=False)
)


def lane(item: Item) -> int:
    return Queue.class_of(item.cost * item.n_passes)


@settings(max_examples=150, deadline=None)
@given(st.lists(ITEMS, min_size=1, max_size=60))
def test_every_request_ends_within_the_bound_that_is_promised(items: list[Item]) -> None:
    assert len(simulated(items)) == len(items)
    longest = max(max(ROOM.cost, 1.125 * item.cost) for item in items)
    for item in items:
        meanwhile = [x for x in items if x.arrives <= item.ended and x.ended >= item.arrives]
        before = [x for x in meanwhile if lane(x) == lane(item) and x.arrives <= item.arrives]
        n_lanes = len({lane(x) for x in meanwhile})
        bound = n_lanes * (sum(x.alone_s for x in before) + 2 * longest)
        assert item.ended - item.arrives <= bound + 1e-6


def test_a_small_one_waits_for_no_queue_of_large_ones_and_a_large_one_for_no_stream_of_small_ones() -> None:
    large = [Item(cost=1000, n_passes=50) for _ in range(20)]
    small = Item(cost=10, n_passes=10, arrives=1.0)
    simulated([*large, small])
    assert small.ended < 2 * (small.alone_s + 3 * 1125)
    stream = [Item(cost=90, n_passes=1, arrives=200.0 * i) for i in range(1500)]
    giant = Item(cost=1000, n_passes=20)
    simulated([*stream, giant])
    assert giant.ended < 3 * giant.alone_s
    assert max(item.ended - item.arrives for item in stream if item.arrives > giant.ended + 30_000) < 1e3


def test_passes_are_full_while_enough_wait() -> None:
    items = [Item(cost=cost, n_passes=10) for cost in (7.0, 13.0, 29.0) for _ in range(50)]
    ended = simulated(items)
    work = sum(item.cost * item.n_passes for item in items)
    assert work / ended[-1].ended > 0.9


def test_above_saturation_the_time_is_that_of_one_after_the_other() -> None:
    items = [Item(cost=cost, n_passes=5) for cost in (100.0, 250.0, 900.0) for _ in range(4)]
    alone = sum(item.cost * item.n_passes for item in items)
    assert simulated(items)[-1].ended == alone


def test_priorities_go_first_and_the_others_fill_the_room() -> None:
    queue: Queue[str] = Queue()
    queue.add("low", 1, priority=-1)
    queue.add("normal", 1000)
    queue.add("high", 10_000, priority=1)
    assert list(queue.view(0)) == ["high", "normal", "low"]


def test_an_urgent_one_leads_until_it_has_gone_and_a_lost_one_is_named() -> None:
    queue: Queue[str] = Queue()
    queue.add("small", 1)
    queue.add("high", 1, priority=1)
    queue.add("dated", 1e6, deadline=Deadline(urgent_at=5.0, lost_at=8.0))
    assert list(queue.view(4.9)) == ["high", "small", "dated"]
    assert list(queue.view(5.0)) == ["high", "dated", "small"]
    assert queue.lost(7.9, lambda _: 8.0) == []
    assert queue.lost(8.0, lambda _: 9.0) == []  # it has advanced since
    assert queue.lost(9.0, lambda _: 9.0) == ["dated"]
    queue.add("gone", 1, deadline=Deadline(urgent_at=10.0, lost_at=10.0))
    assert queue.remove("gone")
    assert not queue.remove("gone")
    assert queue.lost(99.0, lambda _: 0.0) == []
    assert not queue._dated.keys() - {0}


def test_a_pass_costs_no_more_with_a_hundred_thousand_waiting() -> None:
    """Leaving requests included, which are in all places of the queue."""

    def pass_s(n_waiting: int) -> float:
        queue: Queue[int] = Queue()
        for i in range(n_waiting):
            dated = Deadline(1e9 + i, 2e9 + i) if i % 3 == 0 else None
            queue.add(i, 2.0 ** (i % 24), deadline=dated)
        started = time.perf_counter()
        for _ in range(n_passes):
            seen = []
            joined = admit((seen.append(key) or Need(10, 10.0) for key in queue.view(0.0)), ROOM)
            queue.led(seen[joined[0]], 100.0)
            queue.lost(0.0, lambda _: 1.0)
            for i in joined:
                queue.remove(seen[i])
        return (time.perf_counter() - started) / n_passes

    n_passes = 50
    few, many = (min(pass_s(n) for _ in range(3)) for n in (1000, 100_000))
    print(f"{1e6 * few:.0f} us with 1,000 waiting, {1e6 * many:.0f} us with 100,000")
    assert many < 10 * few + 1e-3
