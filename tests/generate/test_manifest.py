"""The manifest's counts, and the job's final report."""

from pathlib import Path

import pytest

from vitascope import storage
from vitascope.generate.batch.manifest import Manifest, Outcome
from vitascope.generate.changes import Change
from vitascope.ledger import Reason, Rejected


def made(line: int, *changes: Change) -> Outcome:
    return Outcome(line, f"r{line}", "image", uri=f"/out/{line}.png", changes=changes)


def failed(line: int, reason: Reason, detail: str = "why") -> Outcome:
    return Outcome(line, f"r{line}").refused(Rejected(reason, detail))


@pytest.mark.parametrize(
    ("rows", "succeeded"),
    [
        ([], True),
        ([made(1)], True),
        ([made(1), failed(2, Reason.INVALID_REQUEST), failed(3, Reason.MEDIA_MISSING)], True),
        ([failed(1, Reason.INVALID_REQUEST)], False),
        ([made(1), failed(2, Reason.GENERATION_FAILED)], False),
    ],
)
def test_it_succeeded_unless_a_valid_request_failed_or_all_did(rows: list, succeeded: bool) -> None:
    manifest = Manifest()
    for position, row in enumerate(rows):
        manifest.add(position, row, skipped=False)
    assert manifest.summary()["succeeded"] == succeeded


def test_the_end_of_a_batch_names_reasons_changes_and_places(tmp_path: Path) -> None:
    rows = [
        made(3, Change.PROMPT_CUT, Change.SIZE_CROPPED),
        failed(2, Reason.INVALID_REQUEST, "x" * 9999),
        made(1, Change.SIZE_CROPPED),
        failed(4, Reason.GENERATION_FAILED, "no memory"),
        failed(5, Reason.INVALID_REQUEST, "other"),
    ]
    with Manifest() as manifest:
        for row in rows:
            manifest.add(row.line - 1, row, skipped=row.line == 1)
        manifest.commit(str(tmp_path / "manifest.parquet"))
    said = list(manifest.account("/out", "/out/manifest.parquet"))
    text = "\n".join(said)
    assert said[0].startswith("size_cropped, 2 outputs: made in the next larger size")
    assert "3 requests without an output: invalid_request 2, generation_failed 1" in text
    assert "line 2 ('r2'): invalid_request: xxx" in text
    assert "line 4 ('r4'): generation_failed: no memory" in text
    assert "run it again" in text
    assert "2 outputs in /out; all requests, with reasons, in /out/manifest.parquet" in text
    assert max(map(len, said)) < 350
    table = storage.rows(str(tmp_path / "manifest.parquet"))
    assert [(row["line"], row["changes"]) for row in table[:4:2]] == [
        (1, ["size_cropped"]),
        (3, ["prompt_cut", "size_cropped"]),
    ]
    assert manifest.summary()["skipped_done"] == 1
