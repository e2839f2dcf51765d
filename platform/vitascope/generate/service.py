"""The generation app as a permanent HTTP service.

    serve run vitascope.generate.service:app settings=settings.toml
    curl -H "Authorization: Bearer $(cat ~/.ray/auth_token)" -d '{"custom_id": "1", "prompt": …}' http://…:8000/

A POST of one request, in the format of a request file's line, returns its sidecar once the output is
committed.
"""

import asyncio
import hmac
import logging
import time
from typing import Any

from pydantic import BaseModel
from ray import serve
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from vitascope import config
from vitascope.cluster import ray_private
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.generate.app.build import build, deployed
from vitascope.generate.document import MAX_LINE_BYTES
from vitascope.generate.models import Newest, open_models
from vitascope.generate.parse import parse
from vitascope.generate.tracing import tracing
from vitascope.ledger import Rejected, Status
from vitascope.metrics import Publisher


class Arguments(BaseModel):
    """The app's arguments: the location of a settings file."""

    settings: str


def app(arguments: Arguments) -> serve.Application:
    """The app for the model that the settings name; outputs go to outputs/<generate.batch> of the run.

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
    service = deployed(Service, 1, settings, cpus=0.1, ongoing=settings.generate.max_in_flight)
    return service.bind(build(open_models(settings), settings), settings)


class Service:
    """Authenticates and checks requests, and forwards them."""

    def __init__(self, generate: Any, settings: Settings) -> None:
        self._generate = generate
        self._newest = Newest(settings, logging.getLogger("ray.serve").warning)
        self._media = settings.path("media")
        self._outputs = settings.path("outputs", settings.generate.batch)
        self._publisher = Publisher(run=settings.run.folder)
        self._token = ray_private.token()

    async def __call__(self, http: HttpRequest) -> JSONResponse:
        """200 with the sidecar; 400 with the reason; 401 without the cluster's token, 405 unless posted."""
        if not self._knows(http.headers.get("authorization", "")):
            return _answer(401, "the cluster's token is required: Authorization: Bearer …")
        if http.method != "POST":
            return _answer(405, f"POST a request, got {http.method}")
        started, mode = time.monotonic(), ""
        try:
            body = await _body(http)
            models = await asyncio.to_thread(lambda: self._newest.models)
            request = parse(body, models.limits(self._media))
            mode = request.mode
            outcome = await self._newest.made(request, self._outputs, self._generate.remote)
        except Rejected as rejected:
            outcome = rejected
        refused = isinstance(outcome, Rejected)
        result = outcome.reason if refused else Status.OK
        self._publisher.add_request(result, mode, time.monotonic() - started)
        return _answer(400, str(outcome)) if refused else JSONResponse(outcome)

    def _knows(self, header: str) -> bool:
        """Whether the header has the cluster's token; False for everyone if the cluster has none."""
        return bool(self._token) and hmac.compare_digest(header.encode(), f"Bearer {self._token}".encode())


async def _body(http: HttpRequest) -> bytes:
    """The request's body, or enough of it that `parse` refuses its size."""
    content = bytearray()
    async for part in http.stream():
        content += part
        if len(content) > MAX_LINE_BYTES:
            break
    return bytes(content)


def _answer(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
