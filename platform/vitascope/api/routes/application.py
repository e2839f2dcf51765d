"""The whole, with its errors."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitascope import storage
from vitascope.api.failures import Refused, invalid
from vitascope.api.routes import about, batches, files, images, people, videos
from vitascope.api.routes.serving import Service


def application(service: Service) -> FastAPI:
    """The service as an ASGI app."""
    app = FastAPI(title="Vitascope", docs_url=None, redoc_url=None)
    app.state.service = service
    for room in (videos, images, files, batches, about):
        app.include_router(room.router)
    app.include_router(about.open_router)
    app.include_router(people.router)
    app.add_middleware(_Limited, most_bytes=service.jobs.settings.max_upload_mib << 20)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app


class _Limited:
    """Refuses larger bodies, however their size is announced, before they are kept anywhere."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, with a body that ends in an error when it is too large."""
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._most:
                raise Refused(413, f"a body has at most {self._most >> 20} MiB (serve.max_upload_mib)")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(error.answer, error.status, error.headers)


async def _of_http(request: Request, error: Any) -> JSONResponse:
    what = {404: f"no address {request.url.path[:200]}", 405: f"{request.method} has no meaning here"}
    refused = Refused(error.status_code, what.get(error.status_code, str(error.detail)))
    headers = refused.headers | ({"Allow": _methods(request)} if error.status_code == 405 else {})
    return JSONResponse(refused.answer, refused.status, headers)


def _methods(request: Request) -> str:
    """What an address answers to, as it is described."""
    paths, asked = request.app.openapi()["paths"], request.url.path
    found = [asked] if asked in paths else [p for p in paths if compile_path(p)[0].fullmatch(asked)]
    return ", ".join(sorted({method.upper() for path in found for method in paths[path]}))


async def _of_validation(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return await _refused(_, invalid(f"{name}: {first['msg']}", name))


async def _of_store(_: Request, error: Any) -> JSONResponse:
    return await _refused(_, Refused(503, f"the store does not answer: {error}", code="store_unavailable"))


async def _of_bug(_: Request, error: Any) -> JSONResponse:  # noqa: ARG001
    return await _refused(
        _, Refused(500, "an internal error; the service's log has it", code="internal_error")
    )


_HANDLERS: dict[type[Exception], Any] = {
    Refused: _refused,
    HTTPException: _of_http,
    RequestValidationError: _of_validation,
    storage.Unavailable: _of_store,
    Exception: _of_bug,
}
