"""Selects the requests of the next pass."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Generic, NamedTuple, TypeVar

from vitascope.ledger import Reason, Rejected

# What a pass may take next to an oversized leader: small requests advance with it, and it loses little.
_BESIDE_LARGE = 1 / 8
# A request is urgent if its remaining passes take more than this fraction of its remaining time.
URGENT = 0.5
# Requests of each lane, and lanes, that a pass is chosen from; a pass takes fewer.
_SEEN, _LANES_SEEN = 256, 16
_FULL = 0.98  # a pass as full as this is not searched for more


@dataclass(frozen=True)
class Load:
    """A request's load: patches in its largest pass (all its segments), and the most passes left."""

    n_tokens: int
    n_passes: int


@dataclass(frozen=True)
class Need:
    """What a request's next pass takes: patches, their cost in patches of a tiny image, and an expert."""

    n_tokens: int
    cost: float
    expert: int = 0


@dataclass(frozen=True)
class Room:
    """What a pass takes: patches, which fill the memory, and the cost from which on passes gain nothing."""

    n_tokens: int
    cost: float

    def device_time(self, costs: float) -> float:
        """The time of a pass in units of cost: below saturation it hardly depends on what is in it."""
        return max(costs, self.cost)


def check(load: Load, most: int) -> None:
    """Refuses a request that exceeds every pass, because it would wait for ever.

    Raises:
        Rejected: TOO_MANY_TOKENS.
    """
    if load.n_tokens > most:
        raise Rejected(
            Reason.TOO_MANY_TOKENS,
            f"{load.n_tokens} patches a pass, more than the {most} patches that a request may have",
        )


def admit(waiting: Iterable[Need], room: Room) -> list[int]:
    """The indices of the requests of the next pass; `waiting` are in the order of their claims.

    The first leads: the pass is its own, however large it is. The others join in their order if they need the
    same expert and fit: into the memory, and into the cost at which a pass saturates the machine, beyond
    which a larger pass only takes longer. Next to a leader that exceeds this alone, an eighth of its cost is
    free for small ones. Reads no further than a full pass.
    """
    joined: list[int] = []
    n_tokens, cost, most, expert = 0, 0.0, room.cost, 0
    for index, need in enumerate(waiting):
        if not joined:
            expert, most = need.expert, max(room.cost, need.cost * (1 + _BESIDE_LARGE))
        elif need.expert != expert or n_tokens + need.n_tokens > room.n_tokens or cost + need.cost > most:
            continue
        joined.append(index)
        n_tokens, cost = n_tokens + need.n_tokens, cost + need.cost
        if cost >= most * _FULL or n_tokens >= room.n_tokens:
            break
    return joined


class Deadline(NamedTuple):
    """The time from which on a request is urgent, and the one from which on it cannot be met any more."""

    urgent_at: float
    lost_at: float


Key = TypeVar("Key")


Place = tuple[int, int]
"""A lane's rank, lower ranks first, and the class of its requests' cost."""
_URGENT_LANE = -1


class Queue(Generic[Key]):
    """All requests of an engine, waiting or begun, in the order of their claims to the next pass.

    A request belongs to a lane: that of its priority and of its total cost, within a factor of four. A lane
    is in order of arrival. The lanes of the highest priority take turns to lead a pass, so that each has led
    for the same device time; the other lanes, and lower priorities, fill the room that is left.

    Guarantee, for requests of one priority without deadlines: a request ends after at most K (S + 2 P) of
    device time. K is the number of lanes with requests meanwhile, P the longest pass, and S the passes of the
    requests before it in its lane and its own, as if each led them alone. Hence a small request does not wait
    for large ones, which are in other lanes, and no stream of small ones starves a large one. A higher
    priority goes first, whatever it delays.

    A request with a deadline leads every pass of its priority once its remaining passes take more than half
    of its remaining time, in the order in which requests become urgent.

    What a pass costs does not depend on the number of requests, except for the logarithm of the number of
    deadlines. Not for several threads at once.
    """

    def __init__(self) -> None:
        # Ordered dictionaries: to find the first key of a plain one takes as long as it had keys before it.
        self._lanes: dict[Place, OrderedDict[Key, None]] = {}
        self._place: dict[Key, Place] = {}
        self._led: dict[Place, float] = {}  # device time, start-time fair queueing (Goyal et al. 1996)
        self._now: dict[int, float] = {}  # of each rank, what the last leader had led before
        self._turn = count()
        self._turns: dict[Key, int] = {}
        self._dated: dict[int, Key] = {}
        self._soon: list[tuple[float, int]] = []
        self._lost: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._place))

    def add(
        self, key: Key, total_cost: float, *, priority: int = 0, deadline: Deadline | None = None
    ) -> None:
        """Adds a request whose remaining passes cost `total_cost`."""
        self._enter(key, (-priority, self.class_of(total_cost)))
        if deadline:
            turn = self._turns[key] = next(self._turn)
            self._dated[turn] = key
            heapq.heappush(self._soon, (deadline.urgent_at, turn))
            heapq.heappush(self._lost, (deadline.lost_at, turn))

    @staticmethod
    def class_of(total_cost: float) -> int:
        """The class of a request's cost: within a factor of four."""
        return int(math.log2(max(1.0, total_cost))) // 2

    def _enter(self, key: Key, place: Place) -> None:
        if place not in self._lanes:  # an idle lane has saved nothing up
            self._lanes[place] = OrderedDict()
            self._led[place] = max(self._led.get(place, 0.0), self._now.get(place[0], 0.0))
        self._lanes[place][key] = None
        self._place[key] = place

    def remove(self, key: Key) -> bool:
        """Removes a request; False if it is not there."""
        if (turn := self._turns.pop(key, None)) is not None:
            del self._dated[turn]
        return self._leave(key) is not None

    def _leave(self, key: Key) -> Place | None:
        if (place := self._place.pop(key, None)) is not None:
            del self._lanes[place][key]
            if not self._lanes[place]:
                del self._lanes[place]
        return place

    def view(self, now: float) -> Iterator[Key]:
        """The requests with the best claims at `now`, best first: a bounded number of them."""
        self._move_urgent(now)
        order = sorted(self._lanes, key=lambda at: (at[0], at[1] != _URGENT_LANE, self._led[at], at[1]))
        for place in order[:_LANES_SEEN]:
            yield from islice(self._lanes[place], _SEEN)

    def led(self, key: Key, device_time: float) -> None:
        """Records that a request led a pass; call it before the request is removed."""
        place = self._place.get(key)
        if place is not None and place[1] != _URGENT_LANE:
            self._now[place[0]] = self._led[place]
            self._led[place] += device_time

    def lost(self, now: float, lost_at: Callable[[Key], float]) -> list[Key]:
        """The requests whose deadlines cannot be met any more, which `lost_at` says anew of each."""
        found: list[Key] = []
        while self._lost and self._lost[0][0] <= now:
            turn = heapq.heappop(self._lost)[1]
            if (key := self._dated.get(turn)) is None:
                continue
            if (later := lost_at(key)) <= now:
                found.append(key)
            else:  # it has advanced meanwhile
                heapq.heappush(self._lost, (later, turn))
        return found

    def _move_urgent(self, now: float) -> None:
        while self._soon and self._soon[0][0] <= now:
            key = self._dated.get(heapq.heappop(self._soon)[1])
            if key is not None and (place := self._leave(key)) is not None:
                self._enter(key, (place[0], _URGENT_LANE))
