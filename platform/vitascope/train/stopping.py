"""Tells the ranks of requests to stop and of nodes that go away.

A request is a file in the run's folder, which the first rank polls and marks as taken: it reaches the ranks
on any node, and anyone can write it (`touch <run>/train/stop`).
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import ray.train

from vitascope import signals, storage
from vitascope.progress import say
from vitascope.train.engine import Ranks
from vitascope.train.step import sum_over_ranks

_LOOK_S = 2.0
_PATIENCE_S = 30.0  # running ranks take the request within seconds
_TAKEN = b"taken"
_ASK_S = 5.0  # Ray Train checks for nodes that go away this often


@dataclass
class Asked:
    """Whether this process was asked to stop, and whether by Ctrl-C."""

    came: bool = False
    by_keyboard: bool = False


@contextmanager
def passed_on(request: str) -> Iterator[Asked]:
    """Within this context SIGTERM and Ctrl-C do not end this process but leave `request` for the ranks.

    A second Ctrl-C ends it at once. If no rank takes the request, KeyboardInterrupt is raised here, and Ray
    Train's controller ends with this process.
    """
    asked, nobody, ended = Asked(), threading.Event(), threading.Event()
    storage.delete(request)  # left by an earlier run

    def handle(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if nobody.is_set():
            raise KeyboardInterrupt
        if signum == signal.SIGINT and asked.by_keyboard:
            signals.end_at_once()
        asked.by_keyboard |= signum == signal.SIGINT
        if not asked.came:
            asked.came = True
            say("train", "stopping after a checkpoint; Ctrl-C again ends at once")
            threading.Thread(target=leave, daemon=True).start()

    def leave() -> None:
        if not _is_taken(request, ended) and not ended.is_set():
            nobody.set()
            os.kill(os.getpid(), signal.SIGTERM)

    in_main = threading.current_thread() is threading.main_thread()  # only it gets signals
    numbers = (signal.SIGTERM, signal.SIGINT) if in_main else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield asked
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        storage.delete(request)


def _is_taken(request: str, ended: threading.Event) -> bool:
    """Leaves the request, and waits for a rank to take it. False if none does, or storage is unavailable."""
    with suppress(Exception):
        storage.put(request, b"asked")
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and not ended.wait(_LOOK_S):
            if storage.read_bytes(request) == _TAKEN:
                return True
    return False


class Watch:
    """Polls for the request in a thread, on one rank. The file stays: restarted ranks see it too."""

    def __init__(self, request: str) -> None:
        self._request, self._came = request, threading.Event()
        threading.Thread(target=self._look, name="stop", daemon=True).start()

    @property
    def came(self) -> bool:
        """Whether the request has arrived."""
        return self._came.is_set()

    def _look(self) -> None:
        while not self._came.wait(_LOOK_S):
            with suppress(Exception):  # storage that is unavailable for a while is polled again
                if storage.exists(self._request):
                    storage.put(self._request, _TAKEN)
                    self._came.set()


class Signs:
    """The events that the ranks react to between steps, all of them at the same step."""

    def __init__(self, request: str, ranks: Ranks) -> None:
        self._ranks = ranks
        self._watch = Watch(request) if ranks.rank == 0 else None
        self._asked = time.monotonic()
        self._going: set[str] = set()

    def look(self) -> tuple[bool, bool]:
        """Whether the run is to stop, and whether a node of its ranks is newly known to go away."""
        stop, ask = sum_over_ranks([self._stop(), self._is_time_to_ask()], self._ranks)
        return stop > 0, ask > 0 and self._nodes_are_going()

    def _stop(self) -> float:
        return float(self._watch is not None and self._watch.came)

    def _is_time_to_ask(self) -> float:
        """The first rank decides when: asking is a barrier, and too slow for every step."""
        due = self._ranks.rank == 0 and time.monotonic() - self._asked > _ASK_S
        if due:
            self._asked = time.monotonic()
        return float(due)

    def _nodes_are_going(self) -> bool:
        info = ray.train.get_preemption_info()
        going = set(info.preempted_node_to_ranks) if info else set()
        news = going - self._going
        self._going |= going
        return bool(news)
