"""The generation app behind HTTP, for a cluster that always serves.

    serve run vitascope.generate.service:app settings=settings.toml
    curl -H "Authorization: Bearer $(cat ~/.ray/auth_token)" -d '{"custom_id": "1", "prompt": …}' http://…:8000/

A POST of one request, as a line of a request file, answers with its sidecar once the output is committed.
"""

import hmac
from typing import Any

from pydantic import BaseModel
from ray import serve
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from vitascope import config, storage
from vitascope.generate.app import Target, build, deployed
from vitascope.generate.batch import described
from vitascope.generate.request import Limits, parse
from vitascope.generate.tracing import tracing
from vitascope.ledger import Rejected


class Arguments(BaseModel):
    """What the app is built from: the location of a settings file."""

    settings: str


def app(arguments: Arguments) -> serve.Application:
    """The app for the model that the settings name; outputs go to outputs/<generate.batch> of the run.

    Raises:
        ValueError: where the settings ask for traces, which Serve's own configuration turns on here.
    """
    settings = config.load(arguments.settings)
    if settings.generate.traces != "off":
        trace = tracing(settings.generate).model_dump_json()
        raise ValueError(
            f"generate.traces = {settings.generate.traces!r} is for batches; a service is traced as its "
            f"Serve configuration says: leave it out, and beside `applications` put tracing_config: {trace}"
        )
    card, about = described(settings)
    limits = Limits(settings.generate, card.model.patch, settings.path("media"))
    outputs = settings.path("outputs", settings.generate.batch)
    service = deployed(Service, 1, settings, cpus=0.1, ongoing=settings.generate.max_in_flight)
    return service.bind(build(about["folder"], card, settings), limits, outputs, about)


class Service:
    """Checks who asks and what is asked, and passes it on."""

    def __init__(self, generate: Any, limits: Limits, outputs: str, model: dict[str, Any]) -> None:
        self._generate, self._limits = generate, limits
        self._outputs, self._model = outputs, model
        self._token = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)

    async def __call__(self, http: HttpRequest) -> JSONResponse:
        """200 with the sidecar; 400 with the reason; 401 without the cluster's token, 405 unless posted."""
        if not self._knows(http.headers.get("authorization", "")):
            return _answer(401, "the cluster's token is asked for: Authorization: Bearer …")
        if http.method != "POST":
            return _answer(405, f"POST a request, got {http.method}")
        try:
            request = parse(await http.body(), self._limits)
        except Rejected as rejected:
            return _answer(400, str(rejected))
        place = storage.join(self._outputs, request.name(self._model["identity"]))
        outcome = await self._generate.remote(request, Target(place, self._model))
        return _answer(400, str(outcome)) if isinstance(outcome, Rejected) else JSONResponse(outcome)

    def _knows(self, header: str) -> bool:
        """Whether the header shows the cluster's token; nobody is let in where the cluster has none."""
        return bool(self._token) and hmac.compare_digest(header.encode(), f"Bearer {self._token}".encode())


def _answer(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
