"""How many replicas a deployment needs.

Serve's controller unpickles this module without the rest of the package: it imports nothing else.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

_GROW_AFTER_S = 5.0
_SLACK = 1e-3  # of a busy replica: sums of measured fractions are not exact


class Meter:
    """The work of a replica so far: what it has taken, and how long it was busy."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._busy_s, self._since = 0.0, 0.0
        self._open: Counter[Any] = Counter()
        self._n_done, self._done = 0, 0.0

    @contextmanager
    def doing(self, takes: Any) -> Iterator[None]:
        """Counts a request that takes this (`Takes`) as open within the context, and afterwards as done."""
        with self._lock:
            if not self._open:
                self._since = self._clock()
            self._open[takes] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= Counter([takes])
                self._n_done, self._done = self._n_done + 1, self._done + takes.cost
                if not self._open:
                    self._busy_s += self._clock() - self._since

    def callers(self) -> dict[str, tuple[float, dict[tuple[int, ...], float]]]:
        """Of each caller's open requests their cost, and their room by lane."""
        callers: dict[str, tuple[float, dict[tuple[int, ...], float]]] = {}
        with self._lock:
            for takes, n in self._open.items():
                cost, rooms = callers.get(takes.caller, (0.0, {}))
                rooms[takes.lane] = rooms.get(takes.lane, 0.0) + n * takes.room
                callers[takes.caller] = (cost + n * takes.cost, rooms)
        return callers

    def report(self) -> dict[str, float]:
        """The fields of `Report` that a replica knows itself."""
        with self._lock:
            return {
                "busy_s": self._busy_s + (self._clock() - self._since if self._open else 0.0),
                "n_open": self._open.total(),
                "open": sum(n * takes.cost for takes, n in self._open.items()),
                "n_done": self._n_done,
                "done": self._done,
            }


@dataclass(frozen=True)
class Report:
    """A replica's work since its start: seconds with any request, open and finished requests, their cost.

    busy: the fraction of the last half minute in which it had any request.
    """

    busy_s: float
    n_open: float
    open: float
    n_done: float
    done: float
    busy: float


def request_s(reports: Sequence[Report]) -> float | None:
    """Seconds that a replica takes for a request like those now open, or like the finished ones if none is.

    Before the first request is finished it is a lower bound, as if all open ones ended now. None if no
    replica has worked yet.
    """
    busy_s, n_open, n_done = (sum(getattr(r, f) for r in reports) for f in ("busy_s", "n_open", "n_done"))
    opened, done = sum(r.open for r in reports), sum(r.done for r in reports)
    if not busy_s or not (n_open or n_done):
        return None
    per_cost = busy_s / (done or opened or 1.0)
    return per_cost * (opened / n_open if n_open else done / n_done)


def wanted(reports: Sequence[Report], n_queued: float, drain_s: float) -> int:
    """Replicas that keep up with the requests and finish those that wait within `drain_s`.

    As many as are busy on average keep up; the waiting requests' seconds of work over `drain_s` are the
    others. Requests from a batch wait in a queue of limited length for as long as no replica is idle: it gets
    another one each time, until none wait.
    """
    if n_queued < 0.5:
        n_queued = 0.0  # an average over the last half minute; what is left of an earlier queue
    a_request_s = request_s(reports)
    waiting_s = n_queued * a_request_s if a_request_s is not None else 0.0
    return math.ceil(sum(r.busy for r in reports) + waiting_s / drain_s - _SLACK)


@dataclass(frozen=True)
class Past:
    """Since when more replicas were wanted without a break; and how many were, at which times.

    `peaks` leaves out a number if the same or a larger one was wanted later.
    """

    growing: float | None = None
    peaks: tuple[tuple[float, int], ...] = ()


def settled(n_wanted: int, n: int, past: Past, *, now: float, idle_s: float) -> tuple[int, Past]:
    """The number of replicas: more if more were wanted for 5 s, else the most of the last `idle_s`.

    Returns also the past for the next call.
    """
    peaks = [(at, number) for at, number in past.peaks or ((now, n),) if at > now - idle_s]
    peaks = [peak for peak in peaks if peak[1] > n_wanted] + [(now, n_wanted)]
    growing = None
    if n_wanted > n:
        growing = now if past.growing is None else past.growing
        if now - growing >= _GROW_AFTER_S:
            n, growing = n_wanted, None
    return min(n, peaks[0][1]), Past(growing, tuple(peaks))


class Scaling:
    """The policy as Serve calls it, ten times a second for each deployment.

    If no replica runs, Serve itself starts one as soon as a request waits.
    """

    def __init__(self, drain_s: float, idle_s: float) -> None:
        self._drain_s, self._idle_s = drain_s, idle_s

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and the state that the next call gets; `context`: AutoscalingContext."""
        state, n = context.policy_state, context.target_num_replicas
        past = Past(**{key: state[key] for key in asdict(Past()) if key in state})
        reports = reports_of(context.raw_metrics or {})
        n_wanted = wanted(reports, context.total_queued_requests or 0.0, self._drain_s)
        if len(reports) < len(context.running_replicas) and context.total_num_requests:
            n_wanted = max(n, n_wanted)  # one that has just started reports nothing yet, and is not idle
        number, past = settled(n_wanted, n, past, now=context.current_time, idle_s=self._idle_s)
        return number, asdict(past)


def reports_of(metrics: Mapping[str, Mapping[Any, Sequence[Any]]]) -> list[Report]:
    """The reports of all replicas that sent some, from Serve's series of (timestamp, value) by name."""
    names = Meter().report()
    series = [metrics.get(name, {}) for name in names]
    whole = [r for r in (series[0] if series else {}) if all(s.get(r) for s in series)]
    reports = []
    for replica in whole:
        last = {name: metrics[name][replica][-1].value for name in names}
        first, latest = metrics["busy_s"][replica][0], metrics["busy_s"][replica][-1]
        spent_s = latest.timestamp - first.timestamp
        busy = (latest.value - first.value) / spent_s if spent_s > 0 else float(last["n_open"] > 0)
        reports.append(Report(**last, busy=min(1.0, busy)))
    return reports
