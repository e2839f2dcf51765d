"""Retries a store's failed requests.

The libraries' own retries are bounded by attempts and not by time: s3fs 2026.9 gives up a server that
restarts or answers 500 after 5 attempts, within 2 to 12 s, and one that stalls after 125 (5 of botocore's in
5 in 5 of s3fs's) of 15 s each, half an hour. The bodies of large reads are not retried at all. This module
has one loop for all requests, bounded by time.
"""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from vitascope.errors import in_a_line
from vitascope.wording import count

# Longer than a server's restart or a throttled minute, shorter than a user's patience for an error.
BUDGET_S = 300.0
# After this time a user who waits may want to know why.
_SILENT_S = 10.0
LONGEST_PAUSE_S = 20.0
CONNECT_S = 5.0
# A connection without data for this time is given up.
STALL_S = 15.0
# An upload may take 60 s, and 1 s more for each of these bytes: a stall cannot be detected while it is sent.
SLOWEST_BYTES_PER_S = 128 * 1024
_LIMIT_S = 60.0

# Entered around every request and its retries, in the thread of the stores' clients: a process with a time
# limit stops its clock with it.
while_waiting: Callable[[], AbstractContextManager[Any]] = nullcontext

T = TypeVar("T")
_log = logging.getLogger(__name__)
_warned = False  # whether this process has logged that a store fails


class Unavailable(Exception):
    """A store failed for as long as it was retried; the file itself may be good.

    Not an OSError, so that handlers of unreadable files do not catch it: fsspec omits folders from a walk on
    any OSError.
    """


async def persist(
    attempt: Callable[[], Awaitable[T]], what: str, may_pass: Callable[[Exception], bool], n_sent: int | None
) -> T:
    """The result of `attempt()`, retried after growing random pauses, while its errors may be transient.

    No attempt begins later than `BUDGET_S` after the first, plus the time of the slowest upload of `n_sent`
    bytes. The first time in a process that this takes 10 s, a warning is logged.

    Raises:
        Unavailable: when the time is up; names `what`.
        Exception: at once, a permanent error of `attempt`: no such key, no permission.
    """
    with while_waiting():
        return await _repeated(attempt, what, may_pass, n_sent)


async def _repeated(
    attempt: Callable[[], Awaitable[T]], what: str, may_pass: Callable[[Exception], bool], n_sent: int | None
) -> T:
    sending_s = (n_sent or 0) / SLOWEST_BYTES_PER_S
    limit_s = None if n_sent is None else _LIMIT_S + sending_s
    begun, budget_s = time.monotonic(), BUDGET_S + sending_s
    for n in itertools.count(1):
        try:
            async with asyncio.timeout(limit_s):
                return await attempt()
        except Exception as error:
            if not (isinstance(error, TimeoutError) or may_pass(error)):
                raise
            passed_s = time.monotonic() - begun
            pause_s = random.uniform(0.5, 1) * min(0.1 * 2**n, LONGEST_PAUSE_S)
            if passed_s + pause_s > budget_s:
                text = f"{what} failed {count(n, 'time')} in {passed_s:.0f} s, at last by {in_a_line(error)}"
                raise Unavailable(text) from error
            if passed_s > _SILENT_S:
                _warn(what, error, budget_s - passed_s)
        await asyncio.sleep(pause_s)
    raise AssertionError("unreachable")


def _warn(what: str, error: Exception, left_s: float) -> None:
    """Logs once in a process that a store fails, and until when it is retried; all its requests may fail."""
    global _warned
    if not _warned:
        _warned = True
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + left_s))
        store = "/".join(what.partition(" ")[2].split("/")[:3])  # scheme and bucket or host
        text = "the store at %s does not answer as it should (%s); trying until %s"
        _log.warning(text, store, in_a_line(error), until)
