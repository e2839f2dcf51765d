"""How far a batch is, and how long it will still take."""

import time
from dataclasses import dataclass
from enum import StrEnum

from vitascope.wording import count


class State(StrEnum):
    """What a batch does."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    ENDED = "ended"


@dataclass(frozen=True)
class Progress:
    """A batch at the Unix time `at`.

    requests: with a row, of about `total`, which is exact once the file has been read. work: the fraction of
    the batch's work that is done, earlier runs included. left_s: None as long as nothing has been made.
    """

    state: State
    at: float
    requests: int
    outputs: int
    failed: dict[str, int]
    total: int
    exact: bool
    work: float
    left_s: float | None

    def lines(self, now: float) -> list[str]:
        """The progress as sentences; says so if the job has not reported for long."""
        about = "" if self.exact else "about "
        without = ", ".join(f"{reason} {n}" for reason, n in self.failed.items())
        found = [
            f"{self.state}, as of {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.at))}",
            f"{self.requests:,} of {about}{count(self.total, 'request')}: {count(self.outputs, 'output')}"
            + (f", without: {without}" if without else ""),
            self.note(),
        ]
        if self.state in (State.RUNNING, State.PAUSED) and now - self.at > _SILENT_S:
            found.append(
                f"no job has reported for {duration(now - self.at)}; vitascope generate continues it"
            )
        return found

    def note(self) -> str:
        """The work that is done, and the time that is left, in a few words."""
        left = f", about {duration(self.left_s)} left" if self.left_s and self.state == State.RUNNING else ""
        return f"{100 * self.work:.0f} % of the work{left}"


_SILENT_S = 60.0


def duration(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}"


@dataclass
class Estimate:
    """Work done and left, as costs, not as numbers of requests: they may differ a hundredfold.

    What has not been read of the file is taken to cost as much as the part before it. Times are monotonic.
    """

    read_cost: float = 0.0
    earlier_cost: float = 0.0
    done_cost: float = 0.0
    n_read: int = 0
    fraction: float = 0.0
    _busy_s: float = 0.0
    _since: float | None = None

    def read(self, costs: list[float], n_lines: int, fraction: float) -> None:
        """More lines have been read: `n_lines`, of which some are requests with `costs`."""
        self.read_cost += sum(costs)
        self.n_read += n_lines
        self.fraction = fraction

    def done(self, cost: float, *, earlier: bool) -> None:
        """A request has ended; `earlier` if in a run before this one."""
        if earlier:
            self.earlier_cost += cost
        else:
            self.done_cost += cost

    def work(self, now: float, *, goes_on: bool) -> None:
        """From `now` on the batch works, or waits, which does not count as time."""
        if self._since is not None:
            self._busy_s += now - self._since
        self._since = now if goes_on else None

    @property
    def total(self) -> int:
        """Lines of the file, as far as is known."""
        return round(self.n_read / self.fraction) if self.fraction else self.n_read

    @property
    def fraction_done(self) -> float:
        """Of the work of the whole file."""
        total = self._total_cost
        return min(1.0, (self.earlier_cost + self.done_cost) / total) if total else self.fraction

    def left_s(self, now: float) -> float | None:
        """Seconds until the end, at the rate of this run; None before its first request has ended."""
        if not self.done_cost:
            return None
        busy_s = self._busy_s + (now - self._since if self._since is not None else 0.0)
        left = max(0.0, self._total_cost - self.earlier_cost - self.done_cost)
        return busy_s * left / self.done_cost

    @property
    def _total_cost(self) -> float:
        return self.read_cost / self.fraction if self.fraction else self.read_cost
