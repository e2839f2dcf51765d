"""Sends the requests of a batch to the app, again if need be."""

import asyncio
from collections.abc import Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from vitascope.errors import Failed, in_a_line
from vitascope.generate.app import serving
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected

_PAUSE_S = 2.0
# Replicas that cannot start in this many checks in a row never will.
_LOOKS, _LOOK_S = 4, 10.0

T = TypeVar("T")


class Sender:
    """Sends requests to the app behind `handle`, each up to `tries` times."""

    def __init__(self, handle: Any, tries: int) -> None:
        self._handle, self._tries = handle, tries
        self._alone = asyncio.Lock()

    async def __call__(self, request: Request, target: Target) -> dict[str, Any] | Rejected:
        """The sidecar of the app's output, or why it has none.

        A request whose replica died is sent again, the last time without any other such request: one of them
        may kill replicas. A request that failed otherwise, perhaps transiently, is sent again, too. If this
        is cancelled, so is the request, wherever it is in the app.
        """
        tries = dict.fromkeys((True, False), self._tries)
        while True:
            try:
                async with self._alone if tries[True] == 1 < self._tries else nullcontext():
                    return await self._answer(request, target)
            except (RayError, RayServeException) as error:
                cause = getattr(error, "cause", error)
                died = isinstance(cause, RayActorError | RayServeException)
                tries[died] -= 1
                if not tries[died]:
                    return Rejected(Reason.GENERATION_FAILED, in_a_line(cause))
                await asyncio.sleep(_PAUSE_S)

    async def _answer(self, request: Request, target: Target) -> dict[str, Any] | Rejected:
        response = self._handle.remote(request, target)
        try:
            answer: dict[str, Any] | Rejected = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        return answer


async def unless_stuck(work: Coroutine[Any, Any, T], name: str | None) -> T:
    """The result of `work`, which needs the app `name`.

    Raises:
        Failed: replicas of the app died and cannot restart, so that requests would wait for ever.
    """
    working, n_looks = asyncio.create_task(work), 0
    while not working.done():
        await asyncio.wait([working], timeout=_LOOK_S)
        why = await asyncio.to_thread(serving.stuck, name) if name and not working.done() else None
        n_looks = n_looks + 1 if why else 0
        if n_looks == _LOOKS:
            working.cancel()
            raise Failed(
                f"generation cannot continue: {why}; finished outputs are kept, run it again to continue"
            )
    return await working
