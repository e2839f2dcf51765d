"""Copies become visible when they are whole."""

from pathlib import Path
from typing import IO

import pytest

from vitascope import copies, storage

CONTENT = bytes(range(256)) * 1000


@pytest.mark.parametrize(
    ("source", "to"), [("local", "s3"), ("s3", "local"), ("s3", "s3"), ("local", "local")]
)
def test_a_file_is_copied_whole_or_not_at_all(
    source: str, to: str, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"local": str(tmp_path), "s3": s3}
    original, copy = f"{places[source]}/a/original", f"{places[to]}/b/copy"
    storage.put(original, CONTENT)
    copies.copy_file(original, copy)
    assert storage.read_bytes(copy) == CONTENT

    def breaking(content: IO[bytes], sink: IO[bytes], length: int) -> None:
        sink.write(content.read(1000))
        raise ConnectionError(length)

    monkeypatch.setattr(copies.shutil, "copyfileobj", breaking)
    for place in (copy, f"{places[to]}/b/new"):
        with pytest.raises(ConnectionError):
            copies.copy_file(original, place)
    assert storage.read_bytes(copy) == CONTENT
    assert storage.list_files(f"{places[to]}/b") == [copy]
    assert to == "s3" or [path.name for path in tmp_path.glob("b/*")] == ["copy"]
