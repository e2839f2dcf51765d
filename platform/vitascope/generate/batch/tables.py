"""Reads requests from the rows of a table: CSV or Parquet."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow.parquet as pq

from vitascope.errors import Mistake
from vitascope.generate.document import MAX_LINE_BYTES, invalid
from vitascope.generate.request import Request
from vitascope.ledger import Rejected
from vitascope.section import shown, unknown_key
from vitascope.wording import count

Row = tuple[int, dict[str, object] | Rejected]
"""The number of a row, and its fields, or why it has none."""

_ROWS = 1024
_OF_CHOICES = (Union, UnionType, Annotated, Literal)
_REQUIRED = [name for name in ("custom_id", "prompt") if Request.model_fields[name].is_required()]


def parquet_rows(file: pq.ParquetFile, uri: str) -> Iterator[Row]:
    """The rows of a Parquet file, from 1. A null, also within a nested value, is a field that is not given.

    Raises:
        Mistake: its columns are not the fields of requests.
    """
    _check_columns(file.schema_arrow.names, uri)
    number = 0
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(_ROWS, row_groups=[group]):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: _value(name, value) for name, value in _given(row).items()}


def csv_rows(lines: Iterable[bytes], delimiter: str, uri: str) -> Iterator[Row]:
    """The rows of a CSV file whose first row names the fields, by the number of their first line, from 1.

    An empty cell is a field that is not given. A row that is too long, perhaps because a quotation mark is
    missing, is refused, and reading goes on after it.

    Raises:
        Mistake: the first row does not name the fields of requests.
    """
    csv.field_size_limit(2 * MAX_LINE_BYTES)  # rows have their own limit
    text, names = _Text(lines), None
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        text.row_bytes = 0
        try:
            cells = next(reader)
            text.check()
        except StopIteration:
            break
        except csv.Error as error:
            yield first, _damaged(error, first, reader.line_num)
            continue
        if not any(cells):
            continue
        if names is None:
            names = [name.strip() for name in cells]
            _check_columns(names, uri)
        else:
            yield first, _fields(names, cells)
    if names is None:
        raise Mistake(f"{uri} has no first row with the names of the fields; write it, or use JSON lines")


class _Text:
    """Lines as texts. Bytes that are not UTF-8 become surrogates, which no request may have.

    row_bytes: of the lines since it was set to 0.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines, self.row_bytes = iter(lines), 0

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        """Raises csv.Error instead of another line if the row is too long already."""
        self.check()
        line = next(self._lines)
        self.row_bytes += len(line)
        return line.decode(errors="surrogateescape").removeprefix("\ufeff") + "\n"

    def check(self) -> None:
        """Raises csv.Error if the row is too long."""
        if self.row_bytes > MAX_LINE_BYTES:
            raise csv.Error(f"it has more than {MAX_LINE_BYTES:,} bytes; is a quotation mark missing?")


def _fields(names: Sequence[str], cells: Sequence[str]) -> dict[str, object] | Rejected:
    if len(cells) != len(names):
        return invalid(
            f"the row has {count(len(cells), 'cell')}, and the first row names {count(len(names), 'field')}; "
            "leave cells empty that are not given, and quote texts that contain the separator"
        )
    return {name: _value(name, cell) for name, cell in zip(names, cells, strict=True) if cell}


def _damaged(error: csv.Error, first: int, last: int) -> Rejected:
    span = f"line {first} is" if last <= first else f"lines {first} to {last} are"
    advice = "quote texts that contain the separator, and double quotation marks in them"
    return invalid(f"{span} no row of a table: {error}; {advice}")


def _check_columns(names: Sequence[str], uri: str) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise Mistake(f"{uri} has the column {shown(twice[0])} more than once; keep one")
    known = list(Request.model_fields)
    for name in names:
        if name not in known:
            raise Mistake(f"{uri}, as a column: {unknown_key(name, known)}")
    if missing := [name for name in _REQUIRED if name not in names]:
        raise Mistake(f"{uri} has no column {missing[0]!r}, which every request needs; it has {shown(names)}")


def _given(value: Any) -> Any:
    """The value without nulls: a column of a table has every field of a nested value, given or not."""
    if isinstance(value, dict):
        return {key: _given(own) for key, own in value.items() if own is not None}
    return list(map(_given, value)) if isinstance(value, list) else value


def _value(name: str, cell: object) -> object:
    """A cell as a request's field takes it: JSON if the field is a list or an object, and the cell a text."""
    if not isinstance(cell, str) or cell[:1] not in ("[", "{"):
        return cell
    if name not in Request.model_fields or _takes_text(Request.model_fields[name].annotation):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell  # refused by the field, with its name


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in _OF_CHOICES:
        return any(map(_takes_text, get_args(annotation)))
    return isinstance(annotation, str) or (isinstance(annotation, type) and issubclass(annotation, str))
