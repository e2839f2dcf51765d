"""Files, whole or in ranges."""

import re
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vitascope import storage
from vitascope.api.failures import Refused, missing

_PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def answer(request: Request, uri: str, media_type: str, name: str) -> Response:
    """The file at `uri`, or the range of it that the request asks for, read piece by piece.

    Args:
        name: of the file, unique to its content.

    Raises:
        Refused: 404 if it was deleted, 416 if the range lies outside.
    """
    try:
        n_bytes = storage.size_bytes(uri)
    except FileNotFoundError:
        raise missing("file", name) from None
    tag = f'"{name}"'
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Content-Disposition": f'inline; filename="{name}"'}
    start, stop = 0, n_bytes
    asked = request.headers.get("range", "")
    if request.headers.get("if-range", tag) == tag and (found := _RANGE.fullmatch(asked)):
        start, stop = _range(found[1], found[2], n_bytes)
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
