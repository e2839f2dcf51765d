"""How long passes take, from those that have run."""

from collections.abc import Sequence

from vitascope.generate.denoise.scheduler import Room

_FIRST_LIMIT_S = 1800.0  # kernels are loaded, chosen or compiled in the first pass
_LEAST_LIMIT_S = 120.0
_LIMIT = 20.0  # times the slowest pass
_NEWEST = 0.1  # weight of the newest pass in the mean


class Pace:
    """The shortest, the usual and the slowest passes, over the device time that they should have taken."""

    def __init__(self, passes: Sequence[tuple[float, float]] = ()) -> None:
        """`passes`: the cost and the seconds of passes that were measured before."""
        self._shortest_s = self._per_cost_s = float("inf")
        self._usual_s = self._slowest_s = 0.0  # per device time
        for cost, seconds in passes:
            self._shortest_s = min(self._shortest_s, seconds)
            self._per_cost_s = min(self._per_cost_s, seconds / cost)

    def add(self, cost: float, seconds: float, room: Room) -> None:
        """Takes account of a pass."""
        self._shortest_s = min(self._shortest_s, seconds)
        self._per_cost_s = min(self._per_cost_s, seconds / cost)
        rate = seconds / room.device_time(cost)
        self._usual_s += (rate - self._usual_s) * (_NEWEST if self._usual_s else 1.0)
        self._slowest_s = max(self._slowest_s, rate)

    def least_s(self, cost: float) -> float:
        """What a pass with a request takes at least; 0 if nothing is known."""
        if self._shortest_s == float("inf"):
            return 0.0
        return max(self._shortest_s, self._per_cost_s * cost)

    def usual_s(self, cost: float, room: Room) -> float:
        """What a pass that the request leads usually takes; what it takes at least if nothing is known."""
        return max(self.least_s(cost), self._usual_s * room.device_time(cost))

    def limit_s(self, cost: float, room: Room) -> float:
        """A pass that takes longer than this is wedged."""
        if not self._slowest_s:
            return _FIRST_LIMIT_S
        return max(_LEAST_LIMIT_S, _LIMIT * self._slowest_s * room.device_time(cost))
