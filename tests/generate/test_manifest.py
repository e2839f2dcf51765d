"""The manifest's counts, and the job's final report."""

from pathlib import Path
from typing import Any

import pytest

from vitascope import storage
from vitascope.generate.manifest import Manifest
from vitascope.records import OK, dropped


def made(line: int, **more: Any) -> dict[str, Any]:
    row = {"line": line, "custom_id": f"r{line}", "mode": "image", "uri": f"/out/{line}.png", "changes": []}
    return row | OK | more


def failed(line: int, reason: str, detail: str = "why") -> dict[str, Any]:
    return {"line": line, "custom_id": f"r{line}"} | dropped(reason, detail)


@pytest.mark.parametrize(
    ("rows", "succeeded"),
    [
        ([], True),
        ([made(1)], True),
        ([made(1), failed(2, "invalid_request"), failed(3, "media_missing")], True),
        ([failed(1, "invalid_request")], False),
        ([made(1), failed(2, "generation_failed")], False),
    ],
)
def test_it_succeeded_unless_a_valid_request_failed_or_all_did(rows: list, succeeded: bool) -> None:
    manifest = Manifest()
    for row in rows:
        manifest.add(row, skipped=False)
    assert manifest.summary()["succeeded"] == succeeded


def test_the_end_of_a_batch_names_reasons_changes_and_places(tmp_path: Path) -> None:
    manifest = Manifest()
    cut = {"changes": ["prompt_cut", "size_cropped"]}
    rows = [made(3, **cut), failed(2, "invalid_request", "x" * 9999), made(1, changes=["size_cropped"])]
    for row in [*rows, failed(4, "generation_failed", "no memory"), failed(5, "invalid_request", "other")]:
        manifest.add(row, skipped=row["line"] == 1)
    said = list(manifest.account("/out", "/out/manifest.parquet"))
    text = "\n".join(said)
    assert said[0].startswith("size_cropped, 2 outputs: made in the next larger size")
    assert "3 requests without an output: invalid_request 2, generation_failed 1" in text
    assert "line 2 ('r2'): invalid_request: xxx" in text
    assert "line 4 ('r4'): generation_failed: no memory" in text
    assert "run it again" in text
    assert "2 outputs in /out; all requests, with reasons, in /out/manifest.parquet" in text
    assert max(map(len, said)) < 350
    manifest.commit(str(tmp_path / "manifest.parquet"))
    table = storage.rows(str(tmp_path / "manifest.parquet"))
    assert [(row["line"], row["changes"]) for row in table[:4:2]] == [
        (1, ["size_cropped"]),
        (3, ["prompt_cut", "size_cropped"]),
    ]
    assert manifest.summary()["skipped_done"] == 1
