"""Sidecar files and caption tables."""

import json
from collections.abc import Iterable
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv

from vitascope import storage
from vitascope.ledger import Reason, Rejected

SIDECARS = (".txt", ".json")  # in the order they win
_COLUMNS = ["name", "caption"]


def sidecars(names: Iterable[str]) -> dict[str, str]:
    """Which file captions which: media name -> sidecar name, for `a/b.mp4` one of `a/b.txt`, `a/b.json`.

    A text or JSON file beside no media of its name is nobody's sidecar and stays an input like any other.
    """
    all_names = set(names)
    media = [name for name in all_names if PurePosixPath(name).suffix.lower() not in SIDECARS]
    found = {}
    for name in media:
        beside = (str(PurePosixPath(name).with_suffix(suffix)) for suffix in SIDECARS)
        if mine := next((sidecar for sidecar in beside if sidecar in all_names), None):
            found[name] = mine
    return found


def read_sidecar(uri: str) -> str:
    """The caption in a sidecar: a `.txt` file's text, or a `.json` file's key "caption".

    Raises:
        Rejected: NO_CAPTION, saying what is wrong with the file.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
        caption = json.loads(text)["caption"] if uri.endswith(".json") else text
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(Reason.NO_CAPTION, f"cannot read {uri}: {type(error).__name__} {error}") from None
    if not isinstance(caption, str) or not caption.strip():
        raise Rejected(Reason.NO_CAPTION, f"{uri} holds no text")
    return " ".join(caption.split())


def read_table(uri: str) -> dict[str, str]:
    """The captions of a Parquet or CSV table: name (relative to the input) -> caption; empty ones left out.

    Raises:
        ValueError: a column is missing, or two rows caption one file.
    """
    table = _load(uri)
    if not set(_COLUMNS) <= set(table.column_names):
        raise ValueError(f"{uri}: expected the columns name and caption, got {', '.join(table.column_names)}")
    captions: dict[str, str] = {}
    for row in table.select(_COLUMNS).to_pylist():
        if row["name"] in captions:
            raise ValueError(f"{uri}: two captions for {row['name']!r}; keep one")
        if row["name"] and row["caption"] and row["caption"].strip():
            captions[row["name"]] = " ".join(row["caption"].split())
    return captions


def _load(uri: str) -> pa.Table:
    if uri.endswith(".parquet"):
        return storage.read_table(uri)
    if not uri.endswith(".csv"):
        raise ValueError(f"clips.captions is a .parquet or .csv file, got {uri}")
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
    return pyarrow.csv.read_csv(pa.BufferReader(storage.read_bytes(uri)), convert_options=as_text)
