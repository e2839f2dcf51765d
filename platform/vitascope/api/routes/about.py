"""Models, health, metrics."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, Response

from vitascope.api.capabilities import described
from vitascope.api.failures import Refused
from vitascope.api.routes import docs as described_page
from vitascope.api.routes.serving import ERRORS, KeyOf, ServiceOf
from vitascope.api.shapes import Model, Page

router = APIRouter(tags=["about"], responses=ERRORS)
open_router = APIRouter(tags=["about"])


@router.get("/v1/models")
def models(service: ServiceOf, _: KeyOf) -> Page[Model]:
    """The models, and what they make."""
    data = [described(service.jobs, name) for name in service.jobs.names]
    return Page(data=data, first_id=data[0].id, last_id=data[-1].id)


@router.get("/v1/models/{model}")
def model(service: ServiceOf, _: KeyOf, model: str) -> Model:
    """One of the models."""
    if model not in service.jobs.names:
        raise Refused(404, f"no model {model[:100]!r}", param="model", code="model_not_found")
    return described(service.jobs, model)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: ServiceOf, _: KeyOf) -> Response:
    """What Vitascope and Ray Serve measure on all nodes, for Prometheus."""
    return Response(service.metrics(), media_type=CONTENT_TYPE_LATEST)


@open_router.get("/docs", response_class=HTMLResponse)
def docs(request: Request) -> HTMLResponse:
    """This page."""
    return HTMLResponse(described_page.page(request.app.openapi()))


@open_router.get("/health")
async def health() -> dict[str, str]:
    """That the service answers; needs no key."""
    return {"status": "ok"}
