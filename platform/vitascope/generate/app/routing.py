"""Sends requests to the replica with the least work.

Serve's own router counts requests, of which one may be twenty times another, and fills the first replica
before a second one has started. Here requests wait until a replica has room for them, whichever it is.
"""

import asyncio
from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from vitascope.generate.app.shares import Held, Report, Takes, first, ranked

_LOOK_S = 0.02  # how often a waiting request looks for room
_REPORT_S = 1.0  # how often replicas report what they hold


class ByCost(FIFOMixin, RequestRouter):
    """A router of requests with a keyword argument `takes`, a `Takes`."""

    def initialize_state(self, **kwargs: Any) -> None:
        """`room`: of a replica, in the unit of `Takes.room`, until it reports its own."""
        self._room = float(kwargs["room"])
        self._held: dict[ReplicaID, Held] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas for the request that goes next, whichever asks, in the order to try them."""
        if pending_request:
            pending_request.routing_context.should_backoff = True
        waiting = self._waiting()
        if not waiting:
            return []
        all_waiting = [_takes(request) for request in waiting]
        held = [self._of(replica, all_waiting[0].caller) for replica in candidate_replicas]
        takes = all_waiting[first(all_waiting, lambda takes: any(one.fits(takes) for one in held))]
        return [[candidate_replicas[index]] for index in ranked(takes, held)]

    def _fulfill_next_pending_request(self, replica: RunningReplica, request_metadata: Any = None) -> None:
        waiting = self._waiting()
        if not waiting:
            return
        held = self._of(replica, _takes(waiting[0]).caller)
        chosen = waiting[first([_takes(request) for request in waiting], held.fits)]
        if held.fits(_takes(chosen)):
            held.sent(chosen.metadata.internal_request_id, _takes(chosen))
            self._pending_requests_to_fulfill.remove(chosen)
            self._pending_requests_to_fulfill.appendleft(chosen)
            super()._fulfill_next_pending_request(replica, request_metadata)

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        try:
            return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except asyncio.CancelledError:  # after it was counted, and before it was sent
            for held in self._held.values():
                held.ended(pending_request.metadata.internal_request_id)
            raise

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A request ended in any way, or was refused by the replica."""
        if replica_id in self._held:
            self._held[replica_id].ended(internal_request_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forgets the replicas that are gone."""
        now = {replica.replica_id for replica in replicas}
        self._held = {replica_id: held for replica_id, held in self._held.items() if replica_id in now}
        super().update_replicas(replicas)

    def _of(self, replica: RunningReplica, caller: str) -> Held:
        held = self._held.setdefault(replica.replica_id, Held(self._room))
        if stats := replica.routing_stats:
            held.reports(Report(**stats), caller)
        return held

    def _waiting(self) -> list[PendingRequest]:
        return [request for request in self._pending_requests_to_fulfill if not request.future.done()]


def _takes(request: PendingRequest) -> Takes:
    takes: Takes = request.kwargs["takes"]
    return takes


def by_cost(room: float) -> RequestRouterConfig:
    """Routing over replicas that have this room each, unless they report another."""
    router: dict[str, Any] = {
        "request_router_class": f"{__name__}:{ByCost.__name__}",
        "request_router_kwargs": {"room": room},
        "request_routing_stats_period_s": _REPORT_S,
        "initial_backoff_s": _LOOK_S,
        "backoff_multiplier": 1.0,
        "max_backoff_s": _LOOK_S,
    }
    return RequestRouterConfig(**router)
