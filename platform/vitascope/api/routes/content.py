"""Files, whole or in ranges."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vitascope import storage
from vitascope.api.failures import Refused, missing
from vitascope.api.shapes import ErrorAnswer

BINARY = "application/octet-stream"
_PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def responses(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of `answer`."""
    file = {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}}
    outside = {"model": ErrorAnswer, "description": "The range lies outside of the file."}
    return {
        200: file | {"description": "The file."},
        206: file | {"description": "A range of it."},
        416: outside,
    }


def answer(request: Request, uri: str, media_type: str, name: str, *, tag: str = "") -> Response:
    """The file at `uri`, or the range of it that the request asks for, read piece by piece.

    What a client uploaded, of the type BINARY, is never shown by a browser.

    Args:
        name: of the file, for those who save it. tag: unique to its content; by default the name.

    Raises:
        Refused: 404 if it was deleted, 416 if the range lies outside.
    """
    try:
        n_bytes = storage.size_bytes(uri)
    except FileNotFoundError:
        raise missing("file", name) from None
    how = "attachment" if media_type == BINARY else "inline"
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{tag or name}"',
        "Content-Disposition": f"{how}; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    start, stop = 0, n_bytes
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        start, stop = _range(asked[1], asked[2], n_bytes)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{n_bytes}"
    headers["Content-Length"] = str(stop - start)
    status = 206 if "Content-Range" in headers else 200
    return StreamingResponse(_pieces(uri, start, stop), status, headers, media_type)


def _range(first: str, last: str, n_bytes: int) -> tuple[int, int]:
    if first:
        start, stop = int(first), min(int(last) + 1, n_bytes) if last else n_bytes
    else:
        start, stop = max(0, n_bytes - int(last or 0)), n_bytes
    if start >= stop:
        raise Refused(
            416, f"the file has {n_bytes} bytes, and none of the range", code="range_not_satisfiable"
        )
    return start, stop


def _pieces(uri: str, start: int, stop: int) -> Iterator[bytes]:
    for begin in range(start, stop, _PIECE_BYTES):
        yield storage.read_bytes(uri, begin, min(begin + _PIECE_BYTES, stop))
