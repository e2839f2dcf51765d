"""The service in this process, without Ray: a stand-in for the app writes files that can be played."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from vitascope import storage
from vitascope.api.jobs import Jobs
from vitascope.api.routes.application import application
from vitascope.api.routes.serving import Service
from vitascope.api.runner import Done, Runner
from vitascope.api.store.keys import Door, Keys, Pace
from vitascope.api.store.links import Links
from vitascope.api.store.objects import Objects
from vitascope.config import Settings
from vitascope.generate.denoise import states
from vitascope.generate.models import Newest
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.media import mp4
from vitascope.media.mp4 import jpeg_bytes

ADMIN_TOKEN = "the-cluster's-token"


@dataclass
class App:
    """Makes grey videos; what a prompt says, it does: `fail`, `die`, `wait`."""

    sent: list[Request] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    deaths: int = 0
    waiting: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request, target: Target) -> "asyncio.Task[dict[str, Any] | Rejected]":
        return asyncio.create_task(self._made(request, target))

    async def _made(self, request: Request, target: Target) -> dict[str, Any] | Rejected:
        self.sent.append(request)
        try:
            while "wait" in request.prompt and not self.waiting.is_set():
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.append(request.custom_id)
            raise
        if "die" in request.prompt:
            self.deaths += 1
            raise RuntimeError("the replica died")
        if "fail" in request.prompt:
            return Rejected(Reason.TOO_SHORT, "the video is too short")
        size = request.size
        frames = [np.full((size.height, size.width, 3), i, np.uint8) for i in range(size.n_frames)]
        with tempfile.TemporaryDirectory() as folder:
            path = mp4.write_media(Path(folder) / "a", iter(frames), request.fps)
            storage.put(target.location + path.suffix, path)
        sidecar = {"uri": target.location + path.suffix}
        storage.put_json(target.location + ".json", sidecar)
        return sidecar


@dataclass
class _Near:
    """The runner, from its own loop."""

    runner: Runner
    pace: Pace = field(default_factory=Pace)

    async def wake(self, owner: str, of: str) -> None:
        self.runner.wake(owner, of)

    async def cancel(self, owner: str, of: str) -> None:
        await self.runner.cancel(owner, of)

    async def preview(self, _: Request, location: str) -> bytes | None:
        state = states.read(location)
        return jpeg_bytes(np.zeros((8, 8, 3), np.uint8), 8) if state else None

    async def admits(self, name: str, per_minute: int) -> bool:
        return self.pace.admits(name, per_minute)


def jobs_of(settings: Settings) -> Jobs:
    """The service's jobs, in the folder of the settings."""
    objects = Objects.of(settings)
    return Jobs(objects, Newest(settings, print), settings.serve, Links.of(objects.root))


@contextmanager
def serving(settings: Settings, app: App, done: Done = lambda *_: None) -> Iterator[str]:
    """Serves on a free port of this machine, and yields the address; jobs are worked off meanwhile."""
    jobs = jobs_of(settings)
    started, address = threading.Event(), []
    server: list[uvicorn.Server] = []

    async def main() -> None:
        runner = Runner(jobs, app, settings.generate.max_in_flight, done)
        door = Door(Keys(jobs.objects.root), ADMIN_TOKEN)
        web = application(Service(jobs, door, _Near(runner), lambda: b""))
        one = uvicorn.Server(uvicorn.Config(web, port=0, log_level="warning", lifespan="off"))
        server.append(one)
        running, serving = asyncio.create_task(runner.run()), asyncio.create_task(one.serve())
        while not one.started:
            await asyncio.sleep(0.01)
        address.append(one.servers[0].sockets[0].getsockname()[1])
        started.set()
        await serving
        running.cancel()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        server[0].should_exit = True
        thread.join(60)
