"""Requests in CSV, Parquet and compressed files are those of JSON lines, and damage is named."""

import csv
import gzip
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.errors import Mistake
from vitascope.generate.batch import tables
from vitascope.generate.batch.lines import Line, Requests
from vitascope.generate.document import MAX_LINE_BYTES
from vitascope.generate.parse import Limits
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings

LIMITS = Limits(GenerateSettings(), patching=Patching(STRIDES["dct"], patch=2), folder="/media")
SMALL = {"prompt": "a cat", "width": 64, "height": 48, "seconds": 1.5}
DOCUMENTS: list[dict[str, Any]] = [
    SMALL | {"custom_id": "plain"},
    SMALL | {"custom_id": "all", "steps": 7, "guidance": 2.5, "seed": 2**60, "negative_prompt": "dark"},
    SMALL | {"custom_id": "odd, \"quoted\"\nand 'long' ü", "fps": 12.5, "prompt": '[a] {b}, "c"\r\nd'},
    SMALL | {"custom_id": "image", "mode": "image_to_video", "image": "a.png"},
    SMALL | {"custom_id": "wrong", "mode": "image_to_video"},
    SMALL | {"custom_id": "wide", "width": "wide"},
    SMALL | {"custom_id": "plain", "seed": 3},
]
FIELDS = list(dict.fromkeys(key for document in DOCUMENTS for key in document))


def read(path: Path) -> list[Line]:
    return list(Requests(str(path), LIMITS))


def outcomes(lines: list[Line]) -> list[Any]:
    """Requests as they are, refusals without what they quote."""
    return [
        line.request if isinstance(line.request, Request) else (str(line.request.reason), line.labels)
        for line in lines
    ]


def as_csv(documents: list[dict[str, Any]], delimiter: str = ",", end: str = "\n") -> str:
    """By Python's own writer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(documents)
    return text.getvalue()


def as_lines(documents: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def columns(documents: list[dict[str, Any]]) -> pa.Table:
    """A table of texts and numbers, with nulls for what is not given."""
    return pa.table(
        {
            name: pa.array(
                [str(v) if name == "width" and (v := d.get(name)) else d.get(name) for d in documents]
            )
            for name in FIELDS
        }
    )


@pytest.fixture
def expected(tmp_path: Path) -> list[Any]:
    (tmp_path / "expected.jsonl").write_bytes(as_lines(DOCUMENTS))
    found = outcomes(read(tmp_path / "expected.jsonl"))
    assert [isinstance(one, Request) for one in found] == [True] * 4 + [False] * 3
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_a_csv_file_holds_the_same_requests(
    tmp_path: Path, expected: list[Any], suffix: str, delimiter: str, end: str
) -> None:
    path = tmp_path / f"requests{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + as_csv(DOCUMENTS, delimiter, end).encode())
    lines = read(path)
    assert outcomes(lines) == expected
    assert [line.number for line in lines] == [2, 3, 4, 7, 8, 9, 10]  # the third has three lines


def test_a_parquet_file_holds_the_same_requests(tmp_path: Path, expected: list[Any]) -> None:
    pq.write_table(columns(DOCUMENTS), tmp_path / "requests.parquet", row_group_size=2)
    requests = Requests(str(tmp_path / "requests.parquet"), LIMITS)
    fractions = []
    lines = [(fractions.append(requests.fraction), line)[1] for line in requests]
    assert outcomes(lines) == expected
    assert [line.number for line in lines] == list(range(1, 8))
    assert fractions == pytest.approx([n / 7 for n in range(1, 8)])


def test_a_table_that_pandas_wrote_is_read_too(tmp_path: Path) -> None:
    documents = [document for document in DOCUMENTS if document["width"] != "wide"]
    frame = pd.DataFrame(documents)  # steps and seed become fractions, because some are missing
    frame["width"] = frame["width"].astype("int16")
    frame["mode"] = frame["mode"].astype("category")
    frame.drop(columns="seed").to_parquet(tmp_path / "requests.parquet")
    requests = [line.request for line in read(tmp_path / "requests.parquet")]
    assert [isinstance(request, Request) for request in requests] == [True] * 4 + [False] * 2
    assert [request.steps for request in requests if isinstance(request, Request)] == [30, 7, 30, 30]


@pytest.mark.parametrize("kind", ["gz", "gz of two", "zst"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_compressed_file_is_read_as_its_content(
    tmp_path: Path, expected: list[Any], suffix: str, kind: str
) -> None:
    content = as_csv(DOCUMENTS).encode() if suffix == ".csv" else as_lines(DOCUMENTS)
    if kind == "zst":
        packed = pa.compress(content, "zstd", asbytes=True)
    else:
        parts = (content[:99], content[99:]) if kind == "gz of two" else (content,)
        packed = b"".join(map(gzip.compress, parts))
    path = tmp_path / f"requests{suffix}.{kind[:3].strip()}"
    path.write_bytes(packed)
    assert outcomes(read(path)) == expected
    path.write_bytes(packed[:-6])
    with pytest.raises(Mistake, match="not a whole compressed file"):
        read(path)


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ("custom_id,prompt,width,width", "has the column 'width' more than once"),
        ("custom_id,promt,width", "unknown key 'promt'; did you mean 'prompt'"),
        ("custom_id,prompt,", "unknown key ''"),
        ("custom_id,width", "has no column 'prompt'"),
        ("r1,a cat,64,48", "unknown key 'r1'"),
        ("", "has no first row"),
        ("\n\n", "has no first row"),
    ],
)
def test_columns_that_are_no_fields_end_the_job_before_it_begins(
    tmp_path: Path, header: str, error: str
) -> None:
    (tmp_path / "requests.csv").write_text(f"{header}\n")
    with pytest.raises(Mistake, match=error):
        read(tmp_path / "requests.csv")


def test_wrong_columns_and_damage_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.parquet"
    pq.write_table(pa.table({"custom_id": ["a"], "promt": ["b"]}), path)
    with pytest.raises(Mistake, match="did you mean 'prompt'"):
        read(path)
    table = columns(DOCUMENTS)
    pq.write_table(pa.Table.from_arrays([*table.columns, table["seed"]], [*table.column_names, "seed"]), path)
    with pytest.raises(Mistake, match="'seed' more than once"):
        read(path)
    pq.write_table(columns(DOCUMENTS), path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:4], b"", b"PAR1" * 9):
        path.write_bytes(content)
        with pytest.raises(Mistake, match="no whole Parquet file"):
            read(path)
    pq.write_table(columns(DOCUMENTS).slice(0, 0), path)
    assert read(path) == []


def test_one_row_that_is_damaged_leaves_the_others(tmp_path: Path) -> None:
    rows = [
        b"custom_id,prompt,width,height,seconds",
        b"a,a cat,64,48,1",
        b"b,a cat,64,48",
        b"c,a cat,64,48,1,,",
        b"",
        b",,,,",
        b'd,a "cat",64,48,1',  # a quotation mark within is text
        b'e,"a" cat,64,48,1',  # and after a quoted text is none
        b"f,\xff\xfe,64,48,1",
        b"g,a\rcat,64,48,1",
        b"h," + b"x" * 2 * MAX_LINE_BYTES + b",64,48,1",
        b"i,a cat,64,48,nan",
        b"j,a cat,64,48,1e999",
        b"k,a cat,6 4,48,1",
        "l,ein Kätzchen,64,48,1".encode(),
    ]
    (tmp_path / "requests.csv").write_bytes(b"\n".join(rows))
    found = read(tmp_path / "requests.csv")
    good = [line.request.custom_id for line in found if isinstance(line.request, Request)]
    assert good == ["a", "d", "l"]
    refused = {line.number: str(line.request) for line in found if not isinstance(line.request, Request)}
    assert sorted(refused) == [3, 4, 8, 9, 10, 11, 12, 13, 14]
    assert "the row has 4 cells, and the first row names 5 fields" in refused[3]
    assert "line 8 is no row of a table" in refused[8]
    assert "prompt is not UTF-8" in refused[9]
    assert "is a quotation mark missing" in refused[11]
    assert [line.labels for line in found if line.number == 12] == [{"custom_id": "i"}]
    assert max(map(len, refused.values())) < 500


@pytest.mark.parametrize("swallowed", ['"never closed', '"a\n","b\n","c\n","'])
def test_a_missing_quotation_mark_takes_neither_the_file_nor_the_memory(swallowed: str) -> None:
    n_lines = 0

    def lines() -> Any:
        nonlocal n_lines
        yield b"custom_id,prompt,width,height,seconds"
        yield from f"0,{swallowed}".encode().split(b"\n")
        for number in itertools.count(1):
            n_lines += 1
            yield f"{number},a cat,64,48,1".encode() if swallowed[1] == "n" else b'b","'

    (first, error), second = itertools.islice(tables.csv_rows(lines(), ",", "requests.csv"), 2)
    assert first == 2
    assert isinstance(error, ValueError)
    assert "is a quotation mark missing" in str(error)
    assert n_lines < 2 * MAX_LINE_BYTES / 3
    if swallowed[1] == "n":
        assert second[1] == {"custom_id": str(n_lines), "prompt": "a cat"} | {
            "width": "64",
            "height": "48",
            "seconds": "1",
        }
        assert f"lines 2 to {second[0] - 1} are no row" in str(error)


def test_nested_values_are_columns_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """No field of a request is nested but by name here: what reaches the field is what counts."""
    field = Request.model_fields["prompt"]
    nested = type(field)(annotation=list[dict[str, int]])
    monkeypatch.setitem(Request.model_fields, "image", nested)
    rows = tables.csv_rows([b"custom_id,prompt,image", b'a,[b],"[{""frame"": 1}]"', b"b,c,[{"], ",", "r.csv")
    first, second = (fields for _, fields in rows)
    assert first == {"custom_id": "a", "prompt": "[b]", "image": [{"frame": 1}]}
    assert second == {"custom_id": "b", "prompt": "c", "image": "[{"}
    sink = io.BytesIO()
    frames = [[{"frame": 1, "until": None}], None]
    pq.write_table(pa.table({"custom_id": ["a", "b"], "prompt": ["c", "d"], "image": frames}), sink)
    rows = tables.parquet_rows(pq.ParquetFile(sink), "r.parquet")
    assert [fields for _, fields in rows] == [
        {"custom_id": "a", "prompt": "c", "image": [{"frame": 1}]},
        {"custom_id": "b", "prompt": "d"},
    ]
