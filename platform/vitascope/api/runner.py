"""Sends what is unfinished to the generation app."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, cast

from vitascope import storage
from vitascope.api.batches import Batches
from vitascope.api.jobs import Jobs
from vitascope.api.shapes import Error
from vitascope.api.store.objects import created_at, kind_of
from vitascope.api.store.records import Job, Kind, Outcome, Progress
from vitascope.errors import in_a_line
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected, Status

_LOOK_S = 20.0  # how often what is pending is looked through: a call of `wake` may be lost
_UNMADE_S = 3600  # after which something pending without a record never gets one
_WRITING_S = 120.0  # the longest that a replica writes an output
_TRIES, _PAUSE_S = 3, 2.0  # of a request that fails for another reason than its own
_LOG = logging.getLogger("ray.serve")

Done = Callable[[Job, str, float], None]
"""Is called with an ended job, its outcome (`ok` or a reason) and its duration in seconds."""


class Item(NamedTuple):
    """Something pending."""

    owner: str
    id: str


class Runner:
    """Works off what is pending; all that it knows it has from the store, so that it may die at any time.

    Args:
        send: the app: takes a request and its target, and returns an awaitable that can be cancelled.
        most: requests in the app at a time.
    """

    def __init__(self, jobs: Jobs, send: Callable[..., Any], most: int, done: Done) -> None:
        self._jobs, self._objects, self._send, self._done = jobs, jobs.objects, send, done
        self._batches = Batches(jobs)
        self._room, self._alone = asyncio.Semaphore(most), asyncio.Lock()
        self._tasks: dict[Item, asyncio.Task[None]] = {}
        self._later: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks for what is pending, again and again."""
        while True:
            try:
                for owner, of in await asyncio.to_thread(self._objects.all_pending):
                    self.wake(owner, of)
            except Exception:
                _LOG.exception("What is pending cannot be listed; it is tried again.")
            await asyncio.sleep(_LOOK_S)

    def wake(self, owner: str, of: str) -> asyncio.Task[None]:
        """Begins something pending, unless it is in work; the task never fails."""
        item = Item(owner, of)
        if item not in self._tasks:
            self._tasks[item] = asyncio.create_task(self._work(item))
            self._tasks[item].add_done_callback(lambda _: self._tasks.pop(item, None))
        return self._tasks[item]

    async def cancel(self, owner: str, of: str) -> None:
        """Ends the work on something that was deleted, and removes what it left."""
        was_in_work = Item(owner, of) in self._tasks
        await self._interrupted(owner, of)
        await _surely(self._objects.clean, owner, of)
        if was_in_work:
            self._later.add(later := asyncio.create_task(self._clean_again(owner, of)))
            later.add_done_callback(self._later.discard)

    async def _clean_again(self, owner: str, of: str) -> None:
        """Removes what a replica that was writing when its request was cancelled has written since."""
        await asyncio.sleep(_WRITING_S)
        await asyncio.to_thread(self._objects.clean, owner, of)

    async def stop(self, owner: str, of: str, outcome: Outcome) -> None:
        """Ends a job with this outcome, unless it has ended: first, so that it is not begun again."""
        if not await asyncio.to_thread(self._objects.has_ended, owner, of):
            await _surely(self._objects.end, owner, of, outcome)
        await self._interrupted(owner, of)

    async def _interrupted(self, owner: str, of: str) -> None:
        if task := self._tasks.get(Item(owner, of)):
            task.cancel()
            await asyncio.wait([task])

    async def _work(self, item: Item) -> None:
        try:
            if kind_of(item.id) is Kind.BATCH:
                await self._batches.run(item.owner, item.id, self)
            elif kind_of(item.id) is Kind.FILE:
                await asyncio.to_thread(self._tidy, item)
            else:
                await self._job(item)
        except Exception:
            _LOG.exception("%s cannot be worked on; it is tried again.", item.id)

    async def _job(self, item: Item) -> None:
        async with self._room:
            job = await asyncio.to_thread(self._objects.get, item.owner, item.id, Job)
            if job is None or await asyncio.to_thread(self._objects.has_ended, *item):
                await asyncio.to_thread(self._tidy, item)
                return
            started = time.monotonic()
            await _surely(self._objects.note, *item, Progress(started_at=int(time.time())))
            try:
                outcome, reason = _outcome(await self._made(job))
            except asyncio.CancelledError:
                if not await asyncio.to_thread(self._is_wanted, *item):
                    self._done(job, str(Reason.CANCELLED), time.monotonic() - started)
                raise
            await _surely(self._objects.end, *item, outcome)
        self._done(job, reason, time.monotonic() - started)
        if not await asyncio.to_thread(self._objects.exists, *item):  # it was deleted meanwhile
            await _surely(self._objects.clean, *item)

    def _is_wanted(self, owner: str, of: str) -> bool:
        return self._objects.exists(owner, of) and not self._objects.has_ended(owner, of)

    async def _made(self, job: Job) -> dict[str, Any] | Rejected:
        """The sidecar of the job's output, or why it has none; one from before a restart counts.

        A request that fails for another reason than its own, such as the death of a replica, is sent again,
        the last time without any other such request: one of them may kill replicas.
        """
        folder = self._objects.media(job.owner, job.id)
        try:
            target = await asyncio.to_thread(self._jobs.target, job)
        except Rejected as rejected:
            return rejected
        with suppress(FileNotFoundError):
            return dict(await asyncio.to_thread(storage.read_json, target.location + ".json"))
        for left in reversed(range(_TRIES)):
            try:
                async with self._alone if left == 0 else nullcontext():
                    made = await self._jobs.newest.made(job.request, folder, self._answer)
                    return cast("dict[str, Any] | Rejected", made)
            except Exception as error:
                _LOG.warning("%s failed, %d tries left: %s", job.id, left, in_a_line(error))
                failed = Rejected(Reason.GENERATION_FAILED, in_a_line(error))
            await asyncio.sleep(_PAUSE_S)
        return failed

    async def _answer(self, request: Request, target: Target) -> Any:
        response = self._send(request, target)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    def _tidy(self, item: Item) -> None:
        """Settles what is finished, and removes what was deleted or never completed."""
        if self._objects.exists(item.owner, item.id):
            self._objects.settle(item.owner, item.id)
        elif time.time() - created_at(item.id) > _UNMADE_S:
            self._objects.clean(item.owner, item.id)


async def _surely(write: Callable[..., None], *arguments: Any) -> None:
    """Writes in a thread, to the end even if this is cancelled: nothing may be written after that."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


def _outcome(made: dict[str, Any] | Rejected) -> tuple[Outcome, str]:
    now = int(time.time())
    if isinstance(made, Rejected):
        error = Error(message=made.detail, type="generation_error", code=str(made.reason))
        return Outcome(at=now, error=error), str(made.reason)
    return Outcome(at=now, uri=str(made["uri"])), str(Status.OK)
