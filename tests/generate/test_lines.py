"""A request file of any content: one row a line, and no line stops another."""

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from vitascope import storage
from vitascope.encode.buckets import Patching
from vitascope.encode.settings import STRIDES
from vitascope.generate.batch import lines
from vitascope.generate.batch.lines import Line, Requests
from vitascope.generate.document import MAX_LINE_BYTES
from vitascope.generate.parse import Limits
from vitascope.generate.request import Request
from vitascope.generate.settings import GenerateSettings
from vitascope.ledger import Reason, Rejected

PATCHING = Patching(STRIDES["dct"], patch=2)

GOOD = {"custom_id": "a", "prompt": "a cat", "width": 64, "height": 48, "seconds": 1, "fps": 8, "seed": 3}
LIMITS = Limits(GenerateSettings(), patching=PATCHING, folder="/media")


def good(custom_id: str, **fields: Any) -> bytes:
    return json.dumps(GOOD | {"custom_id": custom_id} | fields).encode()


def read(tmp_path: Path, content: bytes) -> list[Line]:
    (tmp_path / "requests.jsonl").write_bytes(content)
    return list(Requests(str(tmp_path / "requests.jsonl"), LIMITS))


def test_one_line_that_cannot_be_computed_with_leaves_the_others(tmp_path: Path) -> None:
    content = b"\n".join([good("a"), good("b", seconds=1e308), good("c", seconds=1e307, fps=100), good("d")])
    found = read(tmp_path, content)
    assert [isinstance(line.request, Request) for line in found] == [True, False, False, True]
    assert [line.labels for line in found] == [{}, {"custom_id": "b"}, {"custom_id": "c"}, {}]


def test_the_first_of_lines_that_share_an_id_is_used(tmp_path: Path) -> None:
    found = read(tmp_path, b"\n".join([good("a"), good("b"), good("a", seed=4)]))
    assert [isinstance(line.request, Request) for line in found] == [True, True, False]
    assert "custom_id 'a' is on an earlier line" in str(found[2].request)


def test_blank_lines_marks_and_line_ends_are_no_requests(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(tmp_path, mark + b"\r\n \t\n\n") == []
    found = read(tmp_path, mark + good("a") + b"\r\n\r\n" + good("b") + b"\r\n")
    assert [line.number for line in found] == [1, 3]
    assert all(isinstance(line.request, Request) for line in found)


def test_a_line_without_an_end_takes_no_memory_and_is_one_row(tmp_path: Path) -> None:
    class Counted(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.most = max(self.most, len(content))
            return content

    content = good("a") + b"\n" + b" " * 10_000_000 + good("b") + b"\n" + good("c")
    file = Counted(content)
    first, long, last = lines._bounded(iter(lambda: file.read(lines._PART_BYTES), b""))
    assert (first, last) == (good("a"), good("c"))
    assert MAX_LINE_BYTES < len(long) <= 2 * MAX_LINE_BYTES + 1
    assert file.most <= lines._PART_BYTES
    found = read(tmp_path, content)
    assert [line.number for line in found if isinstance(line.request, Request)] == [1, 3]
    assert "more than 1,048,576 bytes" in str(found[1].request)


def test_a_file_in_a_bucket_is_read_the_same(s3: str) -> None:
    content = b"\n".join([good("a"), good("b", seconds=1e308), b" " * 3_000_000, good("c")])
    storage.put(f"{s3}/requests.jsonl", content)
    found = list(Requests(f"{s3}/requests.jsonl", LIMITS))
    assert [line.number for line in found] == [1, 2, 3, 4]
    assert [isinstance(line.request, Request) for line in found] == [True, False, False, True]


def test_the_row_of_a_refused_line_is_short_whatever_the_line_holds(tmp_path: Path) -> None:
    long = good("x" * 100_000, mode="y" * 100_000, prompt="z" * 500_000)
    row = read(tmp_path, long)[0].refused(Rejected(Reason.INVALID_REQUEST, "why"))
    assert row.custom_id == "x" * 512
    assert len(json.dumps(vars(row))) < 2000


VALUES = [
    *(
        None,
        True,
        False,
        "",
        "a",
        "\0",
        "\ud800",
        "é" * 20_000,
        "9" * 5000,
        "1e400",
        "nan",
        " 2 ",
        "../a",
        "s3://b/c",
    ),
    *(0, -0.0, -1, 1, 2, 2.5, 16, 17, 63.0, 1e-300, 1e22, 1e307, 1e308, -1e308, float("nan"), float("inf")),
    *(2**31, 2**63, 2**64, 10**300, 10**4299, [], {}, [[]], {"a": {"a": []}}, [0] * 10_000),
    *("image_to_video", "extend_forward", "extend_backward", "join", "text_to_video"),
]


def mutated(rng: random.Random) -> bytes:
    """A good request with some of its fields, keys or bytes changed."""
    document: dict[str, Any] = GOOD | {"custom_id": f"{rng.random()}"}
    names = [*Request.model_fields, "promt", "", "x" * 3000]
    for _ in range(rng.randrange(4)):
        document[rng.choice(names)] = rng.choice(VALUES)
    text = bytearray(json.dumps(document, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass"))
    for _ in range(rng.choice([0, 0, 0, 1, 5])):
        at = rng.randrange(len(text))
        change = rng.randrange(4)
        if change == 0:
            text[at] = rng.randrange(256)
        elif change == 1:
            del text[at : at + rng.randrange(1, 30)]
        elif change == 2:
            text[at:at] = rng.choice(
                [b"1e999", b"[" * 3000, b"9" * 5000, b"\xef\xbb\xbf", b"\r", b"\0", b'"seed": 1,']
            )
        else:
            text[at:at] = text[rng.randrange(len(text)) :]
    return bytes(text).replace(b"\n", b"")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_line_holds_it_is_one_request_or_one_reason(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    texts = [mutated(rng) for _ in range(500)]
    found = read(tmp_path, b"\n".join([good("first"), *texts, good("last")]))
    blank = {i for i, text in enumerate(texts, start=2) if not text.strip()}
    assert [line.number for line in found] == [i for i in range(1, len(texts) + 3) if i not in blank]
    kinds = [isinstance(line.request, Request) for line in found]
    assert (kinds[0], kinds[-1]) == (True, True)
    assert 50 < sum(kinds) < 450  # many of either kind
    for line in found:
        if isinstance(line.request, Request):
            assert line.request.size.n_frames >= 1
            assert line.request.name("model")
        else:
            assert len(line.request.detail) < 2000
            assert json.dumps(vars(line.refused(line.request)), ensure_ascii=False).encode()
