"""Captions from sidecars and tables."""

from pathlib import Path

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.clips.captions import read_sidecar, read_table, sidecars
from vitascope.ledger import Reason, Rejected


def test_which_file_captions_which() -> None:
    names = ["a.mp4", "a.txt", "a.json", "x/b.jpg", "x/b.json", "b.txt", "readme.txt", "c.mp4"]
    assert sidecars(names) == {"a.mp4": "a.txt", "x/b.jpg": "x/b.json"}


def test_text_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff  Ein Häschen\n gähnt \n".encode())
    (tmp_path / "b.json").write_text('{"caption": "a cat", "score": 1}')
    assert read_sidecar(str(tmp_path / "a.txt")) == "Ein Häschen gähnt"
    assert read_sidecar(str(tmp_path / "b.json")) == "a cat"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b" \n"),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", b"{}"),
        ("a.json", b"[1]"),
        ("a.json", b'{"caption": 3}'),
    ],
)
def test_a_bad_sidecar_says_what_is_wrong(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected) as rejected:
        read_sidecar(str(tmp_path / name))
    assert rejected.value.reason == Reason.NO_CAPTION
    assert name in rejected.value.detail


def test_tables(tmp_path: Path) -> None:
    rows = pa.table(
        {"name": ["a.mp4", "x/b.jpg", "c.mp4"], "caption": ["a dog", "12", " "], "other": [1, 2, 3]}
    )
    storage.put_table(str(tmp_path / "t.parquet"), rows)
    (tmp_path / "t.csv").write_text('name,caption,other\na.mp4,"a dog",1\nx/b.jpg,12,2\nc.mp4,,3\n')
    for table in ("t.parquet", "t.csv"):
        assert read_table(str(tmp_path / table)) == {"a.mp4": "a dog", "x/b.jpg": "12"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,text\na,b\n", "expected the columns name and caption, got file, text"),
        ("t.csv", "name,caption\na,b\na,c\n", "two captions for 'a'"),
        ("t.xls", "", "parquet or .csv"),
    ],
)
def test_an_unusable_table_stops_with_a_reason(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(str(tmp_path / name))
