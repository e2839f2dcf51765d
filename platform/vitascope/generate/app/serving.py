"""Runs the app for a batch."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentStatus, LoggingConfig, TracingConfig

from vitascope.errors import Failed
from vitascope.generate.starting import CannotStart, reason

_NAMESPACE = "serve"  # Ray Serve's actors
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
"""Serve's logs: what is worth reading."""


@contextmanager
def serving(app: serve.Application, batch: str, name: str, trace: TracingConfig) -> Iterator[Any]:
    """Runs `app` without HTTP and yields its handle; takes over an app of that name that a killed job left.

    Other apps whose names begin with `batch` are removed first: they would hold the resources of this one.
    The app is removed at the end, at once if the work was interrupted.

    Raises:
        Failed: a replica cannot start; says why.
    """
    logging.getLogger("ray.serve").addFilter(_worth_reading)
    serve.start(proxy_location="Disabled", logging_config=QUIET, tracing_config=trace)
    running = serve.status().applications
    for other in running:
        if other.startswith(batch) and other != name:
            serve.delete(other)
    status = running.get(name)
    try:
        left = status and status.status == "RUNNING"
        handle = serve.get_app_handle(name) if left else run(app, name)
        yield handle
        handle.shutdown()  # otherwise it keeps reporting its waiting requests to Serve
    except BaseException:
        remove_at_once(name)
        raise
    serve.delete(name)


def remove_at_once(name: str) -> None:
    """Removes an app and kills its replicas, even busy ones: they commit an output whole or not at all.

    Serve alone would wait for requests that nobody needs any more.
    """
    serve.delete(name, _blocking=False)
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == _NAMESPACE and f"::{name}#" in actor["name"]:
            with suppress(ValueError):  # already gone
                ray.kill(ray.get_actor(actor["name"], namespace=_NAMESPACE))


def run(app: serve.Application, name: str, route_prefix: str | None = None) -> Any:
    """Starts `app` and returns its handle, once it is ready.

    Raises:
        Failed: a replica cannot start; says why.
    """
    try:
        return serve.run(app, name=name, route_prefix=route_prefix, logging_config=QUIET)
    except RuntimeError:  # which names only the deployment
        deployments = serve.status().applications[name].deployments.values()
        failed = [d.message for d in deployments if d.status != DeploymentStatus.HEALTHY]
        raise Failed(f"generation cannot start: {reason(failed)}") from None


def stuck(name: str) -> str | None:
    """Why a replica of a running app cannot start, if so: requests would wait for it."""
    try:
        app = serve.status().applications.get(name)
    except (RayError, RayServeException):  # Serve's controller is started again; the next check may know
        return None
    waiting = [d for d in app.deployments.values() if d.status != DeploymentStatus.HEALTHY] if app else []
    failing = [d.message for d in waiting if CannotStart.__name__ in d.message]
    return reason(failing) if failing else None


def _worth_reading(record: logging.LogRecord) -> bool:
    """False for the message that a replica on a busy CPU reported its queue late; it is asked again."""
    return "Failed to get queue length" not in record.getMessage()
