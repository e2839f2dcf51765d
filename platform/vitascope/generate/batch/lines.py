"""Reads a request file, line by line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from vitascope import storage
from vitascope.generate.batch.manifest import Outcome
from vitascope.generate.document import MAX_LINE_BYTES, labels
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.records import stable_int
from vitascope.section import shown

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line of the request file: its request, or why it has none."""

    number: int
    request: Request | Rejected
    labels: dict[str, str]

    def refused(self, error: Rejected) -> Outcome:
        """The row of records.MANIFEST for a line without a valid request."""
        return Outcome(self.number, self.labels.get("custom_id"), self.labels.get("mode")).refused(error)


def read(uri: str, limits: Limits) -> Iterator[Line]:
    """Every non-blank line, checked. Memory holds one line, and a number for each custom_id."""
    seen: set[int] = set()
    with storage.open_file(uri) as file:
        for number, text in enumerate(_bounded(file), start=1):
            if text.removeprefix(_BYTE_ORDER_MARK).strip() or len(text) > MAX_LINE_BYTES:
                request = _checked(text, limits, seen)
                yield Line(number, request, labels(text) if isinstance(request, Rejected) else {})


def _bounded(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file; of a line that is too long, a part that is still too long."""
    rest = b""
    while part := file.read(MAX_LINE_BYTES):
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        rest = rest[: MAX_LINE_BYTES + 1]
    if rest:
        yield rest


def _checked(text: bytes, limits: Limits, seen: set[int]) -> Request | Rejected:
    """The request of a line, whose id is added to `seen`; of lines with the same id, the first is used."""
    try:
        request = parse(text, limits)
    except Rejected as error:
        return error
    key = stable_int(request.custom_id)
    if key in seen:
        return Rejected(
            Reason.INVALID_REQUEST,
            f"custom_id {shown(request.custom_id)} is on an earlier line too; give every request its own",
        )
    seen.add(key)
    return request
