"""What went in equals what came out and what was dropped, or the sum is refused."""

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from vitascope.config import Settings
from vitascope.report.accounting import figures
from vitascope.report.dataset import Dataset, read

WANTED = {
    "videos_in",
    "clips",
    "samples",
    "samples_train",
    "samples_val",
    "dropped_by_reason",
    "sizes",
    "codec_psnr_db",
    "useful_token_share",
    "cost_spread_p99",
    "ranks",
    "zero_stage",
    "precision",
    "steps_skipped",
    "steps",
    "train_loss_first",
    "train_loss_last",
    "val_loss_first",
    "val_loss_last",
    "tokens_per_s",
    "data_wait_share",
    "requests",
    "outputs",
    "outputs_by_mode",
    "requests_failed_by_reason",
    "seconds_by_stage",
}


@pytest.fixture(scope="module")
def found(finished_run: Settings) -> Dataset:
    return read(finished_run)


def test_the_figures_have_their_names_and_add_up(found: Dataset) -> None:
    summary = figures(found)
    assert summary.keys() >= WANTED
    assert summary["videos_in"] == 4
    assert "not_accounted" not in summary
    assert "missing" not in summary
    assert summary["dropped_by_reason"] == {"empty_file": 1, "unreadable": 1, "too_short": 1, "no_bucket": 1}
    assert summary["dropped_by_stage"] == {"probe": 2, "clips": 1, "encode": 1}
    files_dropped = summary["dropped_by_stage"]["probe"]
    assert summary["clips"] + files_dropped == summary["samples"] + sum(summary["dropped_by_reason"].values())
    assert summary["sizes"] == ["1x96x96", "9x64x96", "9x96x64"]
    assert summary["requests"] == summary["outputs"] + sum(summary["requests_failed_by_reason"].values()) == 7
    assert sum(summary["outputs_by_mode"].values()) == summary["outputs"]
    assert summary["outputs_by_mode"]["image"] == 1


def changed(found: Dataset, **tables: Any) -> Dataset:
    return dataclasses.replace(found, **tables)


def test_a_lost_sample_is_noticed(found: Dataset) -> None:
    lost = changed(found, samples=found.samples.slice(0, len(found.samples) - 1))
    assert figures(lost)["not_accounted"] == ["1 × clip that became neither a sample nor a drop: c9"]


def test_a_doubled_sample_is_noticed(found: Dataset) -> None:
    twice = changed(found, samples=pa.concat_tables([found.samples, found.samples.slice(0, 1)]))
    assert figures(twice)["not_accounted"] == ["1 × sample that stands twice in the index: 0"]


def test_a_file_that_gave_no_clip_is_noticed(found: Dataset) -> None:
    clips = found.clips.filter(pc.not_equal(found.clips["video_id"], "v2"))
    assert (
        "1 × file that was read and gave no clip: v2" in figures(changed(found, clips=clips))["not_accounted"]
    )


def test_a_lost_request_is_noticed(found: Dataset) -> None:
    lost = changed(found, manifest=found.manifest.slice(0, len(found.manifest) - 1))
    assert figures(lost)["not_accounted"] == ["7 requests read, and the manifest has 6 rows"]


def test_two_requests_with_one_output_are_noticed(found: Dataset) -> None:
    rows = found.manifest.to_pylist()
    twice = pa.Table.from_pylist([*rows, rows[0] | {"line": 99}], found.manifest.schema)
    (line, _) = figures(changed(found, manifest=twice))["not_accounted"]
    assert line.startswith("1 × output that two requests claim: ")
