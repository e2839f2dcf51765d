"""The service as Ray Serve deployments.

serve run vitascope.api.app:app settings=settings.toml
"""

import asyncio
import logging
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from vitascope import config
from vitascope.api.jobs import Jobs
from vitascope.api.measured import gathered
from vitascope.api.routes.application import application
from vitascope.api.routes.serving import Service
from vitascope.api.runner import Runner
from vitascope.api.store.keys import Door, Keys, Pace
from vitascope.api.store.links import Links
from vitascope.api.store.objects import Objects
from vitascope.api.store.records import Job
from vitascope.cluster import ray_private
from vitascope.cluster.placement import node_labels
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate.app.build import build
from vitascope.generate.models import Newest, open_models
from vitascope.generate.request import Request
from vitascope.generate.tracing import tracing
from vitascope.metrics import Publisher
from vitascope.prompts.audit import Asked, Audit

CPUS = 0.1
"""Of a replica that answers HTTP, and of the runner."""
_AT_ONCE = 1000  # requests a replica answers; they wait for the store, not for the processor
_HEALTH_LOOK_S = 2.0
_CANCEL_S, _ADMIT_S, _PREVIEW_S = 10.0, 2.0, 5.0  # how long the others are waited for
_LOG = logging.getLogger("ray.serve")


def address(host: str, port: int) -> str:
    """Host and port as a part of a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Arguments(BaseModel):
    """The app's arguments: the location of a settings file."""

    settings: str


def app(arguments: Arguments) -> serve.Application:
    """The app for the model that the settings name; all that it keeps is in outputs/<generate.batch>.

    Raises:
        Mistake: the settings ask for traces, which Serve's own configuration enables here.
    """
    settings = config.absolute(config.load(arguments.settings))
    if settings.generate.traces != "off":
        trace = tracing(settings.generate).model_dump_json()
        raise Mistake(
            f"generate.traces = {settings.generate.traces!r} is for batches; a service is traced as its "
            f"Serve configuration says: leave it out, and next to `applications` put tracing_config: {trace}"
        )
    return service(settings)


def service(settings: Settings) -> serve.Application:
    """The app for checked settings."""
    if twice := set(settings.serve.models) & settings.generate.models.keys():
        raise Mistake(
            f"serve.models names {sorted(twice)[0]!r}, which is one of generate.models, too; it has "
            "names for the default one"
        )
    generate = build(open_models(settings), settings)
    runner = _deployed(RunnerReplica, 1, settings).bind(generate, settings)
    return _deployed(Api, settings.serve.replicas, settings).bind(runner, generate, settings)


def _jobs(settings: Settings) -> Jobs:
    objects = Objects.of(settings)
    return Jobs(objects, Newest(settings, _LOG.warning), settings.serve, Links.of(objects.root))


class RunnerReplica:
    """The runner as a deployment of one replica, which Serve starts again when it dies."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, generate: Any, settings: Settings
    ) -> None:
        jobs = await asyncio.to_thread(_jobs, settings)
        self._publisher = Publisher(run=settings.run.folder)
        self._audit = Audit(settings.path("audit"), settings.prompts.audit_days)
        self._runner = Runner(jobs, generate.remote, settings.generate.max_in_flight, self._done)
        self._pace = Pace()
        self._running = asyncio.create_task(self._runner.run())

    def _done(self, job: Job, outcome: str, seconds: float) -> None:
        request = job.request
        self._publisher.add_request(outcome, request.kind, seconds)
        self._audit.add(Asked(f"key:{job.owner}", job.id, request.prompt, request.digest, outcome))

    async def wake(self, owner: str, of: str) -> None:
        """As `Runner.wake`."""
        self._runner.wake(owner, of)

    async def cancel(self, owner: str, of: str) -> None:
        """As `Runner.cancel`."""
        await self._runner.cancel(owner, of)

    async def admits(self, name: str, per_minute: int) -> bool:
        """As `Pace.admits`: one count for all replicas."""
        return self._pace.admits(name, per_minute)

    def __del__(self) -> None:
        """Serve calls this before it ends the replica, also if it could not start."""
        if hasattr(self, "_running"):
            self._running.cancel()
            self._audit.close()

    def check_health(self) -> None:
        """Raises if the runner has ended."""
        if self._running.done():
            raise RuntimeError(f"the runner has ended: {self._running}")


class _Remote:
    """The runner, from another replica. While it starts again, requests are served without it."""

    def __init__(self, handle: Any, generate: Any) -> None:
        self._handle, self._generate = handle, generate

    async def wake(self, owner: str, of: str) -> None:
        """As `Runner.wake`."""
        await self._handle.wake.remote(owner, of)

    async def cancel(self, owner: str, of: str) -> None:
        """As `Runner.cancel`; after some seconds the runner continues alone."""
        try:
            async with asyncio.timeout(_CANCEL_S):
                await self._handle.cancel.remote(owner, of)
        except (TimeoutError, RayError, RayServeException):
            _LOG.warning("The runner does not answer; %s is removed once it does.", of)

    async def preview(self, request: Request, location: str) -> bytes | None:
        """As `Generate.preview`; None, too, if the app does not answer."""
        try:
            async with asyncio.timeout(_PREVIEW_S):
                picture: bytes | None = await self._generate.preview.remote(request, location)
                return picture
        except (TimeoutError, RayError, RayServeException):
            return None

    async def admits(self, name: str, per_minute: int) -> bool:
        """As `Pace.admits`."""
        try:
            async with asyncio.timeout(_ADMIT_S):
                admitted: bool = await self._handle.admits.remote(name, per_minute)
                return admitted
        except (TimeoutError, RayError, RayServeException):
            return True


def _metrics() -> bytes:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    addresses = (address(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in nodes)
    return gathered(addresses)


@serve.ingress()
class Api:
    """Answers HTTP; any number of replicas."""

    def __init__(self, runner: Any, generate: Any, settings: Settings) -> None:
        jobs = _jobs(settings)
        door = Door(Keys(jobs.objects.root), ray_private.token())
        self._service = Service(jobs, door, _Remote(runner, generate), _metrics)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return application(self._service)


def _deployed(cls: type, n: int, settings: Settings) -> Any:
    """A deployment of a fixed number of replicas: the runner works when nobody asks."""
    labels = node_labels(settings, "generate")
    return serve.deployment(
        num_replicas=n,
        max_ongoing_requests=_AT_ONCE,
        health_check_period_s=_HEALTH_LOOK_S,
        ray_actor_options={"num_cpus": CPUS} | ({"label_selector": labels} if labels else {}),
    )(cls)
