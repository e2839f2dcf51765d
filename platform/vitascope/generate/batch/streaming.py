"""Streams a request file through the app, and accounts for every line."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vitascope import storage
from vitascope.generate.batch import control
from vitascope.generate.batch.batch import Batch
from vitascope.generate.batch.control import Wish
from vitascope.generate.batch.lines import Line
from vitascope.generate.batch.manifest import Manifest, Outcome
from vitascope.generate.batch.order import WINDOW, order
from vitascope.generate.batch.progress import Estimate, Progress, State
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected

_LOOK_S, _REPORT_S = 2.0, 10.0  # between looks at the user's wish, and between reports
_READS_AT_ONCE = 32  # of sidecars that earlier runs left
_MOST_AHEAD = 4 * WINDOW  # lines that are read while the row of an earlier one is missing

Send = Callable[[Request, Target], Awaitable[dict[str, Any] | Rejected]]
Told = Callable[[Outcome, float | None, Progress], None]
"""(a row, the seconds since its request was sent, None if it was not in this run; the batch's progress)."""
Noted = Callable[[Outcome, Request | None], None]
"""(a row that this run made, its request unless the line has none)."""


@dataclass(frozen=True)
class _Asked:
    """A request of the window, the one at `position` in the file, and its output."""

    position: int
    row: Outcome
    request: Request
    target: Target
    cost: float
    finished: bool


class Stream:
    """Sends the requests of a batch to the app, and gives every line of its file a row in the manifest.

    The file is read in windows, whose requests are sent in the order of `order.order`, at most
    `generate.max_in_flight` at a time. The user's wish (`control`) is looked at every few seconds.
    """

    def __init__(
        self, batch: Batch, send: Send | None, manifest: Manifest, told: Told, *, asked: Noted
    ) -> None:
        """`send` may be None if no request is pending, or if the batch is cancelled."""
        self._batch, self._send, self._manifest, self._told = batch, send, manifest, told
        self._asked_for = asked
        self.estimate = Estimate()
        self._wish = Wish.RESUME
        self._open, self._moved, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room = asyncio.Semaphore(batch.limits.settings.max_in_flight)
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._tasks: set[asyncio.Task] = set()
        self._sent: dict[asyncio.Task, _Asked] = {}
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Ends when every line has its row."""
        self._follow(await asyncio.to_thread(control.wished, self._batch.folder))
        watch = asyncio.create_task(self._watch())
        watch.add_done_callback(self._watched)
        try:
            async for window in self._windows():
                await self._window(window)
            while self._tasks:
                await self._move()
            self._ended.set()
            await watch  # it may be writing a report
            self._check()
            await self._report(State.CANCELLED if self._wish is Wish.CANCEL else State.ENDED)
        finally:
            for task in (watch, *self._tasks):
                task.cancel()
            await asyncio.gather(watch, *self._tasks, return_exceptions=True)

    def progress(self, state: State | None = None) -> Progress:
        """The batch as it is now."""
        now = time.monotonic()
        states = {Wish.RESUME: State.RUNNING, Wish.PAUSE: State.PAUSED, Wish.CANCEL: State.CANCELLED}
        n_outputs, failed = self._manifest.n_outputs, dict(self._manifest.failed)
        ended = state is not None
        return Progress(
            state=state or states[self._wish],
            at=time.time(),
            requests=n_outputs + self._manifest.n_failed,
            outputs=n_outputs,
            failed=failed,
            total=self.estimate.total,
            exact=self.estimate.fraction == 1,
            work=1.0 if state is State.ENDED else self.estimate.fraction_done,
            left_s=None if ended else self.estimate.left_s(now),
        )

    async def _windows(self) -> AsyncIterator[list[_Asked]]:
        """The requests of each window; lines that are none get their row. A window is read ahead."""
        requests, position = self._batch.lines(), 0
        lines = iter(requests)
        ahead = asyncio.create_task(asyncio.to_thread(self._read, lines, position))
        while (read := await ahead)[0]:
            taken, asked = read
            position += len(taken)
            self.estimate.read([one.cost for one in asked], len(taken), requests.fraction)
            while position - self._manifest.n_in_order > _MOST_AHEAD:
                await self._move()
            ahead = asyncio.create_task(asyncio.to_thread(self._read, lines, position))
            for number, line in enumerate(taken, start=position - len(taken)):
                if isinstance(line.request, Rejected):
                    self._end(number, line.refused(line.request))
            yield asked

    def _read(self, lines: Iterator[Line], position: int) -> tuple[list[Line], list[_Asked]]:
        taken = list(islice(lines, WINDOW))
        numbered = enumerate(taken, start=position)
        return taken, [self._asked(number, line) for number, line in numbered if is_request(line)]

    def _asked(self, position: int, line: Line) -> _Asked:
        request = line.request
        assert isinstance(request, Request)
        target, size = self._batch.target(request), request.size
        fields = (request.custom_id, request.kind, size.width, size.height, size.n_frames, request.fps)
        cost, finished = self._batch.models.of(request).cost(request), self._batch.is_finished(target)
        return _Asked(position, Outcome(line.number, *fields), request, target, cost, finished)

    async def _window(self, window: list[_Asked]) -> None:
        """Starts all requests of a window."""
        pending = []
        for one in window:
            if one.finished:
                await self._start(self._reads, self._earlier(one))
            else:
                pending.append(one)
        for index in order([one.cost for one in pending]):
            await self._open.wait()
            await self._room.acquire()
            self._check()
            one = pending[index]
            if self._wish is Wish.CANCEL:
                self._room.release()
                self._cancelled(one)
            else:
                self._sent[self._started(self._room, self._made(one))] = one

    async def _start(self, room: asyncio.Semaphore, work: Coroutine[Any, Any, None]) -> None:
        await room.acquire()
        self._started(room, work)

    def _started(self, room: asyncio.Semaphore, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """The task of `work`, whose place in `room` has been taken."""

        def ended(task: asyncio.Task) -> None:
            room.release()
            self._tasks.discard(task)
            one = self._sent.pop(task, None)
            if not task.cancelled():
                self._error = self._error or task.exception()
            elif one and self._wish is Wish.CANCEL:
                self._cancelled(one)
            self._moved.set()

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    async def _move(self) -> None:
        """Waits until a request has ended."""
        self._moved.clear()
        await self._moved.wait()
        self._check()

    def _check(self) -> None:
        """Raises the error of a task that has ended with one."""
        if self._error:
            raise self._error

    def _cancelled(self, one: _Asked) -> None:
        why = Rejected(Reason.CANCELLED, "the batch was cancelled before this was made")
        self._end(one.position, one.row.refused(why), cost=one.cost, request=one.request)

    async def _earlier(self, one: _Asked) -> None:
        row = await asyncio.to_thread(self._batch.earlier, one.row, one.target)
        self._end(one.position, row, cost=one.cost, earlier=True)

    async def _made(self, one: _Asked) -> None:
        started = time.monotonic()
        assert self._send is not None
        result = await self._send(one.request, one.target)
        row = one.row.refused(result) if isinstance(result, Rejected) else one.row.made(result)
        seconds = time.monotonic() - started
        self._end(one.position, row, cost=one.cost, request=one.request, seconds=seconds)

    def _end(
        self,
        position: int,
        row: Outcome,
        *,
        cost: float = 0.0,
        request: Request | None = None,
        seconds: float | None = None,
        earlier: bool = False,
    ) -> None:
        if not earlier:
            self._asked_for(row, request)
        self.estimate.done(cost, earlier=earlier)
        self._manifest.add(position, row, skipped=earlier)
        self._told(row, seconds, self.progress())
        self._moved.set()

    async def _watch(self) -> None:
        """Follows the user's wish, and reports."""
        reported = -_REPORT_S
        while not self._ended.is_set():
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                await self._report()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _LOOK_S)
            with suppress(storage.Unavailable):  # it may be back at the next look
                wish = await asyncio.to_thread(control.wished, self._batch.folder)
                if wish is not self._wish:
                    self._follow(wish)
                    await self._report()

    def _watched(self, watch: asyncio.Task) -> None:
        if not watch.cancelled():
            self._error = self._error or watch.exception()
            self._open.set()
            self._moved.set()

    async def _report(self, state: State | None = None) -> None:
        with suppress(storage.Unavailable):  # the outputs matter more
            await asyncio.to_thread(control.report, self._batch.folder, self.progress(state))

    def _follow(self, wish: Wish) -> None:
        self._wish = wish
        self.estimate.work(time.monotonic(), goes_on=wish is Wish.RESUME)
        if wish is Wish.PAUSE:
            self._open.clear()
            return
        self._open.set()
        if wish is Wish.CANCEL:
            for task in self._sent:
                task.cancel()


def is_request(line: Line) -> bool:
    """Whether a line has a request, finished or not."""
    return isinstance(line.request, Request)
