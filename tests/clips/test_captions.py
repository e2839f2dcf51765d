"""Captions from sidecars and tables."""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vitascope import storage
from vitascope.clips.index.captions import MAX_CHARACTERS, draw, of_document, of_sidecars, of_table, text_of
from vitascope.ledger import Reason, Rejected


def names(*these: str) -> pa.ChunkedArray:
    return pa.chunked_array([list(these)], pa.string())


def test_text_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeff  Ein Häschen\n gähnt \n".encode())
    (tmp_path / "b.json").write_text('{"caption": "a cat", "tags": ["cat", " sofa", ""], "score": 1}')
    text, document = str(tmp_path / "a.txt"), str(tmp_path / "b.json")
    assert of_sidecars([text], ["caption"]) == {"caption": "Ein Häschen gähnt"}
    assert of_sidecars([document], ["tags", "caption", "long"]) == {"tags": "cat, sofa", "caption": "a cat"}
    both = of_sidecars([text, document], ["caption", "tags"])
    assert both == {"caption": "Ein Häschen gähnt", "tags": "cat, sofa"}


def test_a_bad_field_does_not_cost_the_good_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"long": 3, "short": "a cat"}')
    (tmp_path / "a.txt").write_bytes(b"\xe9")
    files = [str(tmp_path / "a.txt"), str(tmp_path / "a.json")]
    assert of_sidecars(files, ["long", "short"]) == {"short": "a cat"}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", b" \n", "holds no text in caption"),
        ("a.txt", b"\xff\xfe\x00", "is not UTF-16 text (truncated data, byte 2)"),
        (
            "a.txt",
            b"caf\xe9 au lait",
            "is not UTF-8 text (invalid continuation byte, byte 3; it may be cp1252)",
        ),
        ("a.txt", "a cat sleeps".encode("utf-16-le"), "is not UTF-8 text (zero, byte 1; it may be UTF-16"),
        (
            "a.json",
            '{"caption": "猫がソファで寝ている"}'.encode("shift_jis"),
            "is not UTF-8 text (invalid start byte",
        ),
        ("a.txt", b"x" * (MAX_CHARACTERS + 1), "caption has 20001 characters, a caption at most 20000"),
        ("a.txt", b"x" * (5 << 20), "is larger than"),
        ("a.json", b"{", "cannot be read: JSONDecodeError"),
        ("a.json", b"[" * 100_000, "cannot be read: RecursionError"),
        ("a.json", b"{}", "holds no text in caption"),
        ("a.json", b"[1]", "holds a list, not fields"),
        ("a.json", b'{"caption": 3}', "caption holds an int, not text"),
        ("a.json", b'{"caption": [1, "a"]}', "caption holds a list, not text"),
        ("a.json", b'{"caption": {"en": "a"}}', "caption holds a dict, not text"),
        ("b.txt", None, "cannot be read: FileNotFoundError"),
    ],
)
def test_a_bad_sidecar_says_what_is_wrong(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Rejected) as rejected:
        of_sidecars([str(tmp_path / name)], ["caption"])
    assert rejected.value.reason == Reason.NO_CAPTION
    assert f"{name} {why}" in rejected.value.detail


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x00b\x1b[0m", "a b [0m"),
        ("a\ud800b", "a b"),  # half a character, as JSON can write it, which no table can hold
        (
            "a family: \U0001f468\u200d\U0001f469\u200d\U0001f467",
            "a family: \U0001f468\u200d\U0001f469\u200d\U0001f467",
        ),
        ("zwei\u00a0Hasen\u2028", "zwei Hasen"),
        (b"bytes", "bytes"),
        ("a".encode("utf-16"), "a"),
        ("a".encode("utf-32"), "a"),
        (["one", "two"], "one, two"),
        ([], ""),
        (None, ""),
    ],
)
def test_odd_text_becomes_plain(value: Any, text: str) -> None:
    assert text_of(value) == text
    pa.array([text_of(value)], pa.string())


def test_tables(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "name": ["a.mp4", "x/b.jpg", "c.mp4", None],
            "caption": ["a dog", "12", " ", "nobody's"],
            "tags": [["dog", "park"], None, [], None],
            "other": [1, 2, 3, 4],
        }
    )
    storage.put_table(str(tmp_path / "t.parquet"), rows)
    csv = 'name,caption,tags,other\na.mp4,"a dog","dog, park",1\nx/b.jpg,12,,2\nc.mp4,,,3\n,nobody\'s,,4\n'
    (tmp_path / "t.csv").write_text(csv)
    for kind in ("t.parquet", "t.csv"):
        files = names("x/b.jpg", "a.mp4", "c.mp4", "new.mp4")
        matched = of_table(str(tmp_path / kind), files, ["tags", "caption", "long"])
        assert (matched.n_names, matched.unused, matched.without) == (3, [], ["new.mp4"])
        asked = matched.rows
        assert asked.column_names == ["tags", "caption"]
        *found, empty, missing = asked.to_pylist()
        expected = [{"caption": "12"}, {"tags": "dog, park", "caption": "a dog"}]
        assert [of_document(row, ["tags", "caption"]) for row in found] == expected
        for row in (empty, missing):
            with pytest.raises(Rejected, match="holds no text in caption, tags"):
                of_document(row, ["caption", "tags"])


@pytest.mark.parametrize("name", ["t.parquet", "T.PARQUET"])
def test_a_table_may_be_a_folder_or_have_a_loud_name(tmp_path: Path, name: str) -> None:
    row = pa.table({"name": ["a.mp4"], "caption": ["a dog"]})
    location = tmp_path / name / "part-0.parquet" if name.islower() else tmp_path / name
    storage.put(str(location), storage.parquet_bytes(row))
    found = of_table(str(tmp_path / name), names("a.mp4"), ["caption"]).rows
    assert found.to_pylist() == [{"caption": "a dog"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_csv_as_spreadsheets_write_it(tmp_path: Path, encoding: str) -> None:
    text = 'name,caption\r\na.mp4,"one\r\ntwo, ""three"""\r\nb.mp4,café\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    rows = of_table(str(tmp_path / "t.csv"), names("a.mp4", "b.mp4"), ["caption"]).rows.to_pylist()
    assert [text_of(row["caption"]) for row in rows] == ['one two, "three"', "café"]


@pytest.mark.parametrize(
    ("encoding", "caption"),
    [
        ("cp1252", "un café au lait – déjà vu"),
        ("gb18030", "一只猫在沙发上睡觉"),
        ("shift_jis", "猫がソファで寝ている"),
        ("cp1251", "Кошка спит на диване"),
        ("euc_kr", "고양이가 소파에서 잔다"),
        ("utf-16-le", "a cat sleeps"),
    ],
)
def test_a_csv_that_is_not_utf8_is_refused_with_what_it_looks_like(
    tmp_path: Path, encoding: str, caption: str
) -> None:
    (tmp_path / "t.csv").write_bytes(f"name,caption\na.mp4,{caption}\n".encode(encoding))
    looks = "UTF-16 without" if encoding == "utf-16-le" else encoding
    with pytest.raises(
        ValueError, match=rf"t\.csv is not UTF-8 text \(.*it may be {looks}.*save it as UTF-8"
    ):
        of_table(str(tmp_path / "t.csv"), names("a.mp4"), ["caption"])


def test_bytes_in_a_parquet_table_are_text_or_told(tmp_path: Path) -> None:
    good, bad = "déjà vu".encode(), "déjà vu".encode("cp1252")
    table = pa.table({"name": [b"a.mp4", b"b.mp4"], "caption": [good, bad]})
    storage.put_table(str(tmp_path / "t.parquet"), table)
    first, second = of_table(
        str(tmp_path / "t.parquet"), names("a.mp4", "b.mp4"), ["caption"]
    ).rows.to_pylist()
    assert of_document(first, ["caption"]) == {"caption": "déjà vu"}
    with pytest.raises(Rejected, match=r"caption is not UTF-8 text \(.*it may be cp1252"):
        of_document(second, ["caption"])
    storage.put_table(str(tmp_path / "n.parquet"), pa.table({"name": [bad], "caption": ["x"]}))
    with pytest.raises(ValueError, match="the column name holds binary that is not UTF-8"):
        of_table(str(tmp_path / "n.parquet"), names("a.mp4"), ["caption"])


@pytest.mark.parametrize(
    ("in_table", "file", "said"),
    [
        ("one.mp4", "two.mp4", "names are paths relative to clips.input"),
        ("A.MP4", "a.mp4", "they differ in case alone ('A.MP4', 'a.mp4')"),
        ("a", "a.mp4", "they differ in the suffix ('a', 'a.mp4')"),
        ("/data/x/a.mp4", "a.mp4", "they differ in the folder; names are relative to clips.input"),
    ],
)
def test_a_table_of_other_files_is_told(tmp_path: Path, in_table: str, file: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(f"name,caption\n{in_table},x\nother.mp4,y\n")
    with pytest.raises(ValueError, match="is a file of the input") as refused:
        of_table(str(tmp_path / "t.csv"), names(file), ["caption"])
    text = str(refused.value)
    assert "none of 2 names in" in text
    assert f"the table has {in_table!r}, the input has {file!r}" in text
    assert said in text


def test_names_of_another_unicode_form_match_and_the_very_same_comes_first(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.mp4") for form in ("NFC", "NFD"))
    (tmp_path / "t.csv").write_text(f"name,caption\n{composed},whole\nx.mp4,x\n")
    found = of_table(str(tmp_path / "t.csv"), names(apart, "x.mp4"), ["caption"])
    assert found.rows["caption"].to_pylist() == ["whole", "x"]
    assert (found.unused, found.without) == ([], [])
    (tmp_path / "t.csv").write_text(f"name,caption\n{composed},whole\n{apart},apart\n")
    both = of_table(str(tmp_path / "t.csv"), names(apart, composed), ["caption"])
    assert both.rows["caption"].to_pylist() == ["apart", "whole"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "file,text\na,b\n", "expected the columns name and caption or tags, got file, text"),
        ("t.csv", "name,text\na,b\n", "expected the columns name and caption or tags, got name, text"),
        ("t.csv", "name,caption\na,b\na,c\n", "two captions for 'a'"),
        ("t.csv", "name,caption\na,b,c\n", r"is no \.csv table"),
        ("t.csv", "", r"is no \.csv table"),
        ("t.csv", "name,caption,caption\na,b,c\n", "has the column 'caption' more than once"),
        ("t.parquet", "text", "t.parquet is no whole Parquet file"),
    ],
)
def test_an_unusable_table_stops_with_a_reason(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        of_table(str(tmp_path / name), names("a"), ["caption", "tags"])


def test_a_large_table_is_matched_at_once(tmp_path: Path) -> None:
    there = [f"{i:06d}.mp4" for i in range(100_000)]
    table = pa.table({"name": there, "caption": [f"caption {name}" for name in there]})
    storage.put_table(str(tmp_path / "t.parquet"), table)
    asked = there[::-7]
    found = of_table(str(tmp_path / "t.parquet"), names(*asked), ["caption"]).rows["caption"].to_pylist()
    assert found == [f"caption {name}" for name in asked]


def test_fields_are_drawn_by_weight() -> None:
    captions = {"long": "a long one", "short": "short", "tags": "t", "raw": "r"}
    weights = {"short": 1.0, "long": 2.0, "tags": 1.0, "raw": 0.0}
    drawn = Counter(draw(captions, weights, i) for i in range(20_000))
    assert set(drawn) == {"long", "short", "tags"}
    assert abs(drawn["long"] / 20_000 - 0.5) < 0.015
    assert abs(drawn["tags"] / 20_000 - 0.25) < 0.015


def test_a_draw_depends_on_the_sample_alone_and_a_new_field_takes_only_its_share() -> None:
    weights = {"long": 2.0, "short": 1.0, "tags": 1.0}
    before = [draw({"long": "l", "short": "s"}, weights, i) for i in range(3000)]
    assert before == [
        draw({"short": "s", "long": "l"}, dict(reversed(weights.items())), i) for i in range(3000)
    ]
    after = [draw({"long": "l", "short": "s", "tags": "t"}, weights, i) for i in range(3000)]
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"tags"}
    assert abs(len(moved) / 3000 - 0.25) < 0.04


def test_no_field_with_a_weight_is_no_caption() -> None:
    with pytest.raises(Rejected, match=r"has raw; clips\.caption_fields gives weights to long"):
        draw({"raw": "r"}, {"long": 1.0}, 1)
