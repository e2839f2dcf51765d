"""A store that is unavailable, or refuses, says nothing about its files: none counts as missing."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.encode.shards import INDEX, ShardFile, read_index


@pytest.mark.parametrize("error", [PermissionError, storage.Unavailable])
@pytest.mark.parametrize("read", [storage.read_table, ShardFile, read_index])
def test_a_table_that_cannot_be_reached_is_not_taken_for_none(
    s3: str, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], Any], error: type[Exception]
) -> None:
    async def refuses(path: str, **_: Any) -> None:
        raise error(path)

    def says_so(path: str, **_: Any) -> None:
        raise error(path)

    table = f"{s3}/{INDEX}"
    storage.put_table(table, pa.table({"a": [1]}))
    where = s3 if read is read_index else table
    read(where)
    fs, _ = storage.filesystem(s3)
    with monkeypatch.context() as away:
        away.setattr(fs, "_info", refuses)
        away.setattr(fs, "info", says_so)
        with pytest.raises(error):
            read(where)
    storage.delete(table)
    storage.put_table(f"{table}/part.parquet", pa.table({"a": [1]}))  # a folder is no table either
    with pytest.raises(FileNotFoundError):
        read(where)
