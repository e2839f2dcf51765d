"""How many replicas a deployment gets, for the work that waits for it."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from vitascope.generate.app.scaling import Meter, Past, Report, Scaling, request_s, settled, wanted
from vitascope.generate.app.shares import Takes

IDLE = Report(busy_s=0.0, n_open=0, open=0.0, n_done=0, done=0.0, busy=0.0)


def busy(request_s: float, n_open: int = 1) -> Report:
    """A replica that has worked all the time, on requests of this many seconds."""
    return Report(
        busy_s=100.0, n_open=n_open, open=n_open, n_done=100 / request_s, done=100 / request_s, busy=1
    )


def test_a_meter_knows_its_busy_time_and_the_open_work_of_each_caller() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    with meter.doing(Takes(10.0, 2.0, "a")):
        now[0] = 4.0
        with meter.doing(Takes(5.0, 1.0, "b")), meter.doing(Takes(5.0, 1.0, "b")):
            now[0] = 6.0
            assert meter.callers() == {"a": (10.0, {(): 2.0}), "b": (10.0, {(): 2.0})}
            assert meter.report() == {"busy_s": 6.0, "n_open": 3, "open": 20.0, "n_done": 0, "done": 0.0}
    now[0] = 100.0  # idle meanwhile
    assert meter.report() == {"busy_s": 6.0, "n_open": 0, "open": 0, "n_done": 3, "done": 20.0}
    assert meter.callers() == {}


def test_seconds_of_a_request_follow_its_cost() -> None:
    done = Report(busy_s=60.0, n_open=0, open=0.0, n_done=6, done=60.0, busy=1.0)
    assert request_s([done]) == 10.0
    larger_now = Report(busy_s=60.0, n_open=2, open=80.0, n_done=6, done=60.0, busy=1.0)
    assert request_s([larger_now]) == 40.0
    none_finished = Report(busy_s=30.0, n_open=3, open=9.0, n_done=0, done=0.0, busy=1.0)
    assert request_s([none_finished]) == 10.0
    assert request_s([]) is None
    assert request_s([IDLE]) is None


def test_as_many_replicas_as_keep_up_and_work_off_the_queue_in_time() -> None:
    assert wanted([], 0, 10.0) == 0
    assert wanted([IDLE], 0, 10.0) == 0
    assert wanted([busy(5.0)], 0, 10.0) == 1
    assert wanted([busy(5.0)], 8, 10.0) == 1 + 4
    assert wanted([busy(60.0)] * 4, 3, 10.0) == 4 + 18
    half = Report(busy_s=50.0, n_open=0, open=0.0, n_done=10, done=10.0, busy=0.4)
    assert wanted([half] * 3, 0, 10.0) == 2
    assert wanted([busy(0.01)], 20, 10.0) == 2, "a queue of short requests that never ends"


def test_grows_soon_and_shrinks_late_to_the_most_that_was_wanted_meanwhile() -> None:
    past, n = Past(), 1
    for now, n_wanted, expected in [
        (0.0, 4, 1),
        (4.0, 5, 1),
        (5.0, 5, 5),  # for 5 s more were wanted
        (6.0, 1, 5),
        (20.0, 3, 5),
        (30.0, 0, 5),
        (36.0, 0, 3),  # the most in the last 30 s
        (40.0, 5, 3),
        (41.0, 3, 3),  # not for 5 s without a break
        (46.0, 5, 3),
        (50.0, 2, 3),
        (77.0, 0, 2),
        (79.0, 0, 2),
        (80.0, 0, 0),
    ]:
        n, past = settled(n_wanted, n, past, now=now, idle_s=30.0)
        assert n == expected, now


@dataclass
class Simulated:
    """A deployment that works one request at a time, and Serve's loop around the policy, in steps of 1 s."""

    request_s: float
    most: int
    start_s: float = 20.0
    now: float = 0.0
    queue: int = 0
    target: int = 0
    running: list[list[Any]] = field(default_factory=list)
    starting: list[float] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[float, int]] = field(default_factory=list)

    def step(self, policy: Scaling) -> None:
        self.now += 1.0
        while len(self.running) + len(self.starting) < self.target:
            self.starting.append(self.now + self.start_s)
        self.running += [[Meter(lambda: self.now), None, []] for at in self.starting if at <= self.now]
        self.starting = [at for at in self.starting if at > self.now]
        while len(self.running) > self.target:
            self.running.remove(next(r for r in self.running if r[1] is None))
        for replica in self.running:
            meter, work, series = replica
            if work and work[0] <= self.now:
                work[1].__exit__(None, None, None)
                replica[1] = None
            if replica[1] is None and self.queue:
                self.queue -= 1
                context = meter.doing(Takes(1.0))
                context.__enter__()
                replica[1] = (self.now + self.request_s, context)
            series.append((self.now, meter.report()))
        self._decide(policy)

    def _decide(self, policy: Scaling) -> None:
        n_open = sum(replica[1] is not None for replica in self.running)
        if not self.running and self.queue:
            self.target = max(1, self.target)  # Serve does so itself
        else:
            metrics = {
                name: {
                    i: [SimpleNamespace(timestamp=t, value=report[name]) for t, report in series[-30:]]
                    for i, (_, _, series) in enumerate(self.running)
                }
                for name in Meter().report()
            }
            context = SimpleNamespace(
                policy_state=self.state,
                target_num_replicas=self.target,
                raw_metrics=metrics,
                running_replicas=self.running,
                total_queued_requests=self.queue,
                total_num_requests=self.queue + n_open,
                current_time=self.now,
            )
            target, self.state = policy(context)
            self.target = min(self.most, target)
        self.history.append((self.now, len(self.running)))


def test_from_zero_to_all_for_a_batch_and_back_to_zero() -> None:
    deployment, policy = Simulated(request_s=5.0, most=6), Scaling(drain_s=10.0, idle_s=60.0)
    for _ in range(100):
        deployment.step(policy)
    assert {n for _, n in deployment.history} == {0}
    left, finished = 400, None
    while deployment.now < 2000.0:
        sent = min(left, 32 - deployment.queue)  # a batch has so many in flight
        deployment.queue, left = deployment.queue + sent, left - sent
        deployment.step(policy)
        if finished is None and not left and not deployment.queue:
            finished = deployment.now
    counts = dict(deployment.history)
    assert max(counts.values()) == 6
    first_full = min(t for t, n in deployment.history if n == 6)
    assert first_full < 100 + 60, "one start, a few seconds of queue, another start"
    assert finished is not None
    assert all(counts[t] == 6 for t in counts if first_full < t < finished)
    idle = max(t for t, n in deployment.history if n)
    assert 60 <= idle - finished < 60 + 45, "idle_s after the last request, seen in an average over 30 s"


def test_a_light_load_keeps_one_replica() -> None:
    deployment, policy = Simulated(request_s=5.0, most=6), Scaling(drain_s=10.0, idle_s=60.0)
    for second in range(1200):
        deployment.queue += second % 12 == 0
        deployment.step(policy)
    assert max(n for t, n in deployment.history if t > 200) == 1
    assert min(n for t, n in deployment.history if t > 200) == 1
