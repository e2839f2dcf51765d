"""Which request goes next, and to which replica."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

Lane = tuple[int, ...]
"""Of requests that wait for each other."""


@dataclass(frozen=True)
class Takes:
    """What a request takes of a replica.

    cost: its work, in a unit of the deployment. room: what it fills of a replica while it is there; others
    wait for any replica with room. 0: it is sent at once. caller: names the process that sends it. priority:
    higher ones are sent first. lane: a replica has as much room for each lane.
    """

    cost: float
    room: float = 0.0
    caller: str = ""
    priority: int = 0
    lane: Lane = ()


FREE = Takes(0.0)
"""Of a request that nobody accounts for."""


@dataclass(frozen=True)
class Report:
    """What a replica reports: the room of a lane; of each caller's requests, their cost and room by lane."""

    room: float
    callers: Mapping[str, tuple[float, Mapping[Lane, float]]]


class Held:
    """The unfinished requests of a replica: those of this caller, exactly, and what it reports of others."""

    def __init__(self, room: float) -> None:
        """`room` is that of the replica, until it reports another."""
        self._room = room
        self._sent: dict[str, list[Takes]] = {}
        self._others: Mapping[str, tuple[float, Mapping[Lane, float]]] = {}

    def sent(self, request: str, takes: Takes) -> None:
        """This caller has sent a request; those that serve one request of a user have one id."""
        self._sent.setdefault(request, []).append(takes)

    def ended(self, request: str) -> None:
        """A request ended, or never arrived."""
        if len(self._sent.get(request, ())) > 1:
            self._sent[request].pop()
        else:
            self._sent.pop(request, None)

    def reports(self, report: Report, caller: str) -> None:
        """The newest report of the replica, which is a second or two old; `caller` is the own name."""
        self._room = report.room
        self._others = {name: open for name, open in report.callers.items() if name != caller}

    @property
    def cost(self) -> float:
        """The cost of all."""
        return sum(takes.cost for takes in self._own()) + sum(cost for cost, _ in self._others.values())

    def fits(self, takes: Takes) -> bool:
        """Whether the requests of its lane do not fill the room yet; the last one may exceed it."""
        used = sum(sent.room for sent in self._own() if sent.lane == takes.lane)
        used += sum(rooms.get(takes.lane, 0.0) for _, rooms in self._others.values())
        return not takes.room or used < self._room

    def _own(self) -> Iterator[Takes]:
        return chain.from_iterable(self._sent.values())


def first(waiting: Sequence[Takes], fits: Callable[[Takes], bool]) -> int:
    """The index of the waiting request that is sent next, of requests in the order of their arrival.

    One that takes no room, else the oldest of the highest priority, of a lane that has room for its own: in
    its lane, no request is overtaken for ever by smaller ones.
    """
    heads: dict[Lane, int] = {}
    for index in sorted(range(len(waiting)), key=lambda i: (waiting[i].room > 0, -waiting[i].priority, i)):
        if not waiting[index].room:
            return index
        heads.setdefault(waiting[index].lane, index)
    return next((index for index in heads.values() if fits(waiting[index])), next(iter(heads.values())))


def ranked(takes: Takes, replicas: Sequence[Held]) -> list[int]:
    """The indices of the replicas with room for a request, the one with the least work first."""
    fitting = [index for index, held in enumerate(replicas) if held.fits(takes)]
    return sorted(fitting, key=lambda index: replicas[index].cost)
