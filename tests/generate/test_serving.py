"""Serve with our routing, scaling and health checks, and parts that only wait."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError

from vitascope import config
from vitascope.config import Settings
from vitascope.generate.app.build import deployed
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.values import Metered

TINY = ["generate.idle_s=20", "generate.queue_s=2", "generate.longest_request_s=60"]


class Waits(Metered):
    """Takes `takes.cost` tenths of a second for a request, any number at once."""

    room = 2.0

    async def __call__(self, number: int, *, takes: Takes) -> tuple[int, int]:
        with self.meter.doing(takes):
            await asyncio.sleep(takes.cost / 10)
        return number, os.getpid()


class Wedges(Metered):
    """Blocks for ever in its first request of all, as a hung kernel does, and notices it."""

    room = 2.0

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder, self._since = folder, 0.0

    def check_health(self) -> None:
        if self._since and time.monotonic() - self._since > 1:
            raise RuntimeError("no pass has ended for a second")

    async def __call__(self, *, takes: Takes) -> int:
        with self.meter.doing(takes):
            try:
                os.mkdir(self._folder)
            except FileExistsError:
                return os.getpid()
            self._since = time.monotonic()
            return await asyncio.to_thread(threading.Event().wait)


class Asks:
    """Sends requests on, as the ingress does."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def all(self, costs: list[float], room: float) -> list[tuple[int, int]]:
        """Number and replica of each request, in the order they end."""
        ended = []

        async def one(number: int, cost: float) -> None:
            ended.append(await self._handle.remote(number, takes=Takes(cost, room, "me")))

        await asyncio.gather(*map(one, range(len(costs)), costs))
        return ended

    async def again(self) -> int:
        """The process that answers; sent again if its replica died."""
        for _ in range(3):
            try:
                return await self._handle.remote(takes=Takes(1.0, 1.0, "me"))
            except RayActorError:
                continue
        raise AssertionError("three replicas died")


@contextmanager
def running(cls: type, name: str, *args: Any, most: int, room: float) -> Iterator[Any]:
    settings: Settings = config.load(None, TINY)
    part = deployed(cls, most, settings, cpus=0.5, ongoing=100, room=room).bind(*args)
    app = serve.deployment(Asks).options(ray_actor_options={"num_cpus": 0.1}).bind(part)
    try:
        yield serve.run(app, name=name, route_prefix=None)
    finally:
        serve.delete(name)


def test_requests_wait_for_room_and_not_behind_the_first_replica(ray_cluster: None) -> None:  # noqa: ARG001
    """With one replica first: a second one starts for those that wait, and takes its part of them."""
    with running(Waits, "vitascope-room", most=2, room=2.0) as handle:
        ended = handle.all.remote([20.0] * 60, 1.0).result(timeout_s=240)
    numbers, replicas = [number for number, _ in ended], [replica for _, replica in ended]
    assert sorted(numbers) == list(range(60))
    assert all(abs(number - position) < 8 for position, number in enumerate(numbers)), "in order of arrival"
    assert len(set(replicas)) == 2
    assert min(replicas.count(replica) for replica in set(replicas)) >= 5


def test_a_wedged_replica_is_replaced_and_its_request_ends_elsewhere(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Any,
) -> None:
    with running(Wedges, "vitascope-wedged", str(tmp_path / "wedged"), most=1, room=2.0) as handle:
        answered = handle.again.remote().result(timeout_s=240)
        assert (tmp_path / "wedged").exists()
        assert answered != os.getpid()
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        assert sum("vitascope-wedged#Wedges#" in name for name in names) == 1
