"""Reads a request file of any size: JSON lines, CSV or Parquet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from vitascope import storage
from vitascope.errors import Mistake
from vitascope.generate.batch import tables
from vitascope.generate.batch.manifest import Outcome
from vitascope.generate.batch.seen import Seen
from vitascope.generate.document import MAX_LINE_BYTES, labels
from vitascope.generate.parse import Limits, parse
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.section import shown

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PART_BYTES = 2**18
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Line:
    """A line of the request file, or a row: its request, or why it has none."""

    number: int
    request: Request | Rejected
    labels: dict[str, str]

    def refused(self, error: Rejected) -> Outcome:
        """The row of records.MANIFEST for a line without a valid request."""
        return Outcome(self.number, self.labels.get("custom_id"), self.labels.get("mode")).refused(error)


class Requests:
    """The requests of a file, in its order.

    The name decides how it is read: `.parquet`, `.csv`, `.tsv`, and otherwise as JSON lines; with `.gz` or
    `.zst` after it, it is compressed.
    """

    def __init__(self, uri: str, limits: Limits) -> None:
        self._uri, self._limits = uri, limits
        self.fraction = 0.0
        """That part of the file that has been read."""

    def __iter__(self) -> Iterator[Line]:
        """Every line that is not blank, checked. Memory holds one, and eight bytes for each custom_id.

        Raises:
            Mistake: the file is damaged, or a table without the columns of requests.
        """
        seen, self.fraction = Seen(), 0.0
        for number, given in self._rows():
            request = given if isinstance(given, Rejected) else _checked(given, self._limits, seen)
            refused = isinstance(request, Rejected) and not isinstance(given, Rejected)
            yield Line(number, request, labels(given) if refused else {})
        self.fraction = 1.0

    def _rows(self) -> Iterator[tuple[int, Any]]:
        if storage.is_parquet(self._uri):
            with storage.open_parquet(self._uri, None) as file:
                n_rows = file.metadata.num_rows
                for number, row in tables.parquet_rows(file, self._uri):
                    self.fraction = number / n_rows
                    yield number, row
            return
        kind, compression = _kind(self._uri)
        with storage.open_file(self._uri) as file:
            parts = self._parts(file, compression)
            if kind in _DELIMITERS:
                yield from tables.csv_rows(_bounded(parts), _DELIMITERS[kind], self._uri)
            else:
                yield from _json_lines(parts)

    def _parts(self, file: IO[bytes], compression: str | None) -> Iterator[bytes]:
        """The file's content; counts how much of the file has been read."""
        n_bytes = max(1, storage.size_bytes(self._uri))
        content: Any = file
        if compression:
            content = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        while part := self._read(content):
            yield part
            self.fraction = file.tell() / n_bytes

    def _read(self, content: Any) -> bytes:
        try:
            return bytes(content.read(_PART_BYTES))
        except OSError as error:
            if isinstance(content, pa.NativeFile):
                raise Mistake(
                    f"{self._uri} is not a whole compressed file ({error}); write it again. What is finished "
                    "is kept"
                ) from None
            raise


def _kind(uri: str) -> tuple[str, str | None]:
    """The suffix of a request file, and its compression."""
    name = uri.lower()
    compression = next((how for suffix, how in _COMPRESSED.items() if name.endswith(suffix)), None)
    if compression:
        name = name.rpartition(".")[0]
    return name[name.rfind(".") :], compression


def _json_lines(parts: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, text in enumerate(_bounded(parts), start=1):
        if text.removeprefix(_BYTE_ORDER_MARK).strip() or len(text) > MAX_LINE_BYTES:
            yield number, text


def _bounded(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file; of a line that is too long, a part that is still too long."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
        rest = rest[: MAX_LINE_BYTES + 1]
    if rest:
        yield rest


def _checked(given: bytes | dict[str, object], limits: Limits, seen: Seen) -> Request | Rejected:
    """The request of a line, whose id is added to `seen`; of lines with the same id, the first is used."""
    try:
        request = parse(given, limits)
    except Rejected as error:
        return error
    if not seen.add(request.custom_id):
        return Rejected(
            Reason.INVALID_REQUEST,
            f"custom_id {shown(request.custom_id)} is on an earlier line too; give every request its own",
        )
    return request
