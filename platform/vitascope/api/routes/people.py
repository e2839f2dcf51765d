"""The page for people: it uses the same addresses as any client."""

from importlib.resources import files
from typing import Literal

from fastapi import APIRouter
from starlette.responses import Response

router = APIRouter(include_in_schema=False)

_TYPES = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
def index() -> Response:
    """The page; it asks for a key, so that it needs none itself."""
    return _file("index.html")


@router.get("/page/{name}")
def part(name: Literal["page.css", "page.js"]) -> Response:
    """What the page consists of."""
    return _file(name)


def _file(name: str) -> Response:
    content = files("vitascope.api").joinpath("page", name).read_bytes()
    return Response(content, headers=_HEADERS, media_type=_TYPES[name])
