"""Sidecar files and caption tables.

A clip may have several captions, each a named field (`long`, `short`, `tags`): the settings name the fields
and give each a weight, and `draw` chooses the one that a sample uses. A text file is the first field.
"""

import json
import math
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from vitascope import storage
from vitascope.clips.index import utf8
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected
from vitascope.media import tars
from vitascope.records import stable_int
from vitascope.wording import a, count

SIDECARS = (".txt", ".json")  # if both have a field, the first wins
MAX_CHARACTERS = 20_000  # some 3,000 words; text encoders read 512 tokens, and a longer text is no caption
_COMPARED = 100_000  # names, to find out how they differ
_MAX_SIDECAR_BYTES = 4 << 20  # JSON sidecars hold more than the caption
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff]+")  # control characters, lone surrogates


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def of_sidecars(uris: Sequence[str], fields: Iterable[str]) -> dict[str, str]:
    """The captions in sidecars, files or tar members: field -> text.

    Raises:
        Rejected: NO_CAPTION if none has text; names the problem of each file.
    """
    names = list(fields)
    texts: dict[str, str] = {}
    causes = []
    for uri in uris:
        try:
            texts = of_document(_document(uri, names[0]), names) | texts
        except Rejected as rejected:
            causes.append(f"{uri} {rejected.detail}")
    if not texts:
        raise Rejected(Reason.NO_CAPTION, "; ".join(causes) or "there is no sidecar")
    return texts


def _document(uri: str, text_field: str) -> Any:
    try:
        with tars.open_file(uri) as file:
            content = file.read(_MAX_SIDECAR_BYTES + 1)
        if len(content) > _MAX_SIDECAR_BYTES:
            raise Rejected(Reason.NO_CAPTION, f"is larger than {_MAX_SIDECAR_BYTES} bytes")
        text = _decoded(content)
        return json.loads(text) if _suffix(tars.shown(uri)) == ".json" else {text_field: text}
    except Rejected:
        raise
    except (FileNotFoundError, PermissionError, ValueError, RecursionError) as error:
        raise Rejected(Reason.NO_CAPTION, f"cannot be read: {type(error).__name__} {error}") from None


def of_document(document: Any, fields: Iterable[str]) -> dict[str, str]:
    """The captions in a JSON document or a row of a table: field -> text. Other values are skipped.

    Raises:
        Rejected: NO_CAPTION if no field holds text; says what they hold.
    """
    names = list(fields)
    if not isinstance(document, Mapping):
        raise Rejected(Reason.NO_CAPTION, f"holds {_kind(document)}, not fields")
    texts, causes = {}, []
    for name in names:
        try:
            texts[name] = text_of(document.get(name))
        except Rejected as rejected:
            causes.append(f"{name} {rejected.detail}")
    texts = {name: text for name, text in texts.items() if text}
    if not texts:
        raise Rejected(Reason.NO_CAPTION, "; ".join(causes) or f"holds no text in {', '.join(names)}")
    return texts


def text_of(value: Any) -> str:
    """A caption on one line, from text, UTF-8 bytes or a list of tags, joined by `, `; `""` from None.

    Raises:
        Rejected: NO_CAPTION for anything else, and for more than MAX_CHARACTERS.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, list | tuple) and all(isinstance(tag, str) for tag in value):
        value = ", ".join(tag.strip() for tag in value if tag.strip())
    if not isinstance(value, str):
        raise Rejected(Reason.NO_CAPTION, f"holds {_kind(value)}, not text")
    if len(value) > MAX_CHARACTERS:
        raise Rejected(Reason.NO_CAPTION, f"has {len(value)} characters, a caption at most {MAX_CHARACTERS}")
    return " ".join(_NO_TEXT.sub(" ", value).split())


def _decoded(content: bytes) -> str:
    try:
        return utf8.decoded(content)
    except utf8.NotText as error:
        raise Rejected(Reason.NO_CAPTION, str(error)) from None


def _kind(value: Any) -> str:
    return a(type(value).__name__)


@dataclass(frozen=True, eq=False)
class CaptionTable:
    """The rows of a captions table about the files of an input.

    rows: one row a file, nulls if the table has none; the columns are the caption fields as in the table.
    n_names: number of names in the table. unused: names that match no file. without: files without a row.
    """

    rows: pa.Table
    n_names: int
    unused: list[str]
    without: list[str]


def of_table(uri: str, names: pa.ChunkedArray, fields: Iterable[str]) -> CaptionTable:
    """The rows of a Parquet or CSV table about the files called `names`; `of_document` reads a row.

    Names match if they are the same text in any Unicode normal form.

    Raises:
        Mistake: it is no such table, lacks the column `name` or all fields, has two rows for one file, or
            none of its names matches a file.
    """
    columns = list(fields)
    table = _load(uri, columns)
    for column in ("name", *columns):
        if table.column_names.count(column) > 1:
            raise Mistake(f"{uri} has the column {column!r} more than once; keep one")
    present = [column for column in columns if column in table.column_names]
    if "name" not in table.column_names or not present:
        expected = " and ".join(("name", " or ".join(columns)))
        raise Mistake(f"{uri}: expected the columns {expected}, got {', '.join(table.column_names)}")
    keys = _names_of(table, uri)
    counts = pc.value_counts(keys.drop_null())
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(twice):
        raise Mistake(f"{uri}: two captions for {twice[0].as_py()!r}; keep one")
    at = same_name(names, keys)
    used = pc.is_in(pa.array(np.arange(len(keys))), value_set=pc.unique(at.drop_null()))
    unused = keys.filter(pc.and_(pc.invert(used), pc.is_valid(keys)))
    captions = CaptionTable(
        rows=storage.large_texts(table.select(present)).take(at),
        n_names=len(keys) - keys.null_count,
        unused=unused.to_pylist(),
        without=names.filter(pc.is_null(at)).to_pylist(),
    )
    if len(names) and captions.n_names and at.null_count == len(at):
        raise Mistake(_none_matches(uri, captions))
    return captions


def same_name(names: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    """The index of each of `names` in `keys`, else null: of the same bytes, else of the same text in NFC.

    macOS decomposes names (`e` and an accent); they match the name as typed (`é`).
    """
    exact = pc.index_in(names, value_set=keys)
    if exact.null_count:
        nfc = (pc.utf8_normalize(column, form="NFC") for column in (names, keys))
        exact = pc.coalesce(exact, pc.index_in(next(nfc), value_set=next(nfc)))
    return exact.combine_chunks() if isinstance(exact, pa.ChunkedArray) else exact


def _names_of(table: pa.Table, uri: str) -> pa.ChunkedArray:
    try:
        return pc.cast(table["name"], pa.string())
    except pa.ArrowInvalid:
        kind = table.schema.field("name").type
        raise Mistake(f"{uri}: the column name holds {kind} that is not UTF-8; write it as text") from None


def _none_matches(uri: str, table: CaptionTable) -> str:
    """The error that no name of the table matches, with a hint if one is known."""
    mismatch = (
        f"none of {count(table.n_names, 'name')} in {uri} is a file of the input: the table has "
        f"{table.unused[0]!r}, the input has {table.without[0]!r}"
    )
    return f"{mismatch}; {hint(table) or 'names are paths relative to clips.input'}"


def hint(table: CaptionTable) -> str:
    """How unmatched names differ from the names of files, if by one of the usual mistakes; else empty."""
    files = table.without[:_COMPARED]
    rules: dict[str, Callable[[str], str]] = {
        "they differ in case alone": str.casefold,
        "they differ in the suffix": lambda name: posixpath.splitext(name)[0],
        "they differ in the folder; names are relative to clips.input": posixpath.basename,
    }
    for difference, key in rules.items():
        known = {key(file): file for file in files}
        for name in table.unused[:_COMPARED]:
            if key(name) in known:
                return f"{difference} ({name!r}, {known[key(name)]!r})"
    return ""


def _load(uri: str, columns: list[str]) -> pa.Table:
    kind = _suffix(uri)
    try:
        return _load_csv(uri, columns) if kind == ".csv" else storage.read_table(_files_of(uri))
    except pa.ArrowInvalid as error:
        raise Mistake(f"{uri} is no {kind} table: {error}") from None


def _files_of(uri: str) -> str:
    """The folder or file of a Parquet table: Spark and Ray write folders with the name of a file."""
    fs, path = storage.filesystem(uri)
    return f"{uri}/" if fs.isdir(path) else uri


def _load_csv(uri: str, columns: list[str]) -> pa.Table:
    """A CSV table, read as text."""
    try:
        content = utf8.decoded(storage.read_bytes(uri)).encode()
    except utf8.NotText as error:
        raise Mistake(f"{uri} {error}; save it as UTF-8") from None
    if content.count(b'"') % 2:
        raise Mistake(f"{uri} has a quotation mark that is not closed; quotes within a field are doubled")
    as_text = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(["name", *columns], pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        read_options=pyarrow.csv.ReadOptions(block_size=min(max(len(content), 1 << 20), 2**31 - 1)),
        convert_options=as_text,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )


def draw(captions: Mapping[str, str], weights: Mapping[str, float], key: object) -> str:
    """The field of `captions` that the sample `key` uses, sampled by weight; deterministic.

    If a field is added or removed, only the samples that move to it or lose it change (weighted rendezvous
    hashing).

    Raises:
        Rejected: NO_CAPTION if no field has a weight above 0.
    """
    weighted = [field for field in captions if weights.get(field, 0) > 0]
    if not weighted:
        wanted, present = ", ".join(weights), ", ".join(captions) or "no field"
        raise Rejected(Reason.NO_CAPTION, f"has {present}; clips.caption_fields gives weights to {wanted}")
    return max(sorted(weighted), key=lambda field: weights[field] / -math.log(_uniform(key, field)))


def _uniform(*parts: object) -> float:
    """A number within (0, 1), derived from `parts`."""
    return (stable_int("caption", *parts) + 0.5) / 2**63
