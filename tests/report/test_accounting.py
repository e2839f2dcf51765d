"""What went in equals what came out and what was dropped, or the sum is refused."""

import dataclasses
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flow import sources
from flow.finished import REQUESTS, WRONG
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
    "val_levels",
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
    assert "not_accounted" not in summary
    assert "missing" not in summary
    clips = [reason for cut in sources.CLIPS.values() for _, reason in cut]
    lost, refused = Counter(filter(None, clips)), Counter(reason for _, reason in WRONG.values())
    assert summary["videos_in"] == len(sources.BAD) + len(sources.CLIPS)
    assert summary["clips"] == len(clips)
    assert summary["samples"] == clips.count(None)
    assert summary["dropped_by_reason"] == Counter(sources.BAD.values()) + lost
    by_stage = {"probe": len(sources.BAD), "clips": lost.total() - lost["no_bucket"], "encode": 1}
    assert summary["dropped_by_stage"] == by_stage
    files_dropped = summary["dropped_by_stage"]["probe"]
    assert summary["clips"] + files_dropped == summary["samples"] + sum(summary["dropped_by_reason"].values())
    assert summary["sizes"] == ["1x80x112", "9x80x112", "9x96x64", "9x112x80", "17x80x112"]
    assert summary["requests"] == len(REQUESTS) + len(WRONG)
    assert summary["outputs"] == len(REQUESTS)
    assert summary["requests_failed_by_reason"] == refused
    modes = Counter(asked.get("mode", "text_to_video") for asked in REQUESTS.values() if asked["seconds"])
    assert summary["outputs_by_mode"] == modes | {"image": len(REQUESTS) - modes.total()}


def changed(found: Dataset, **tables: Any) -> Dataset:
    return dataclasses.replace(found, **tables)


def test_a_lost_sample_is_noticed(found: Dataset) -> None:
    lost = changed(found, samples=found.samples.slice(0, len(found.samples) - 1))
    clip_id = found.samples["clip_id"][-1]
    assert figures(lost)["not_accounted"] == [f"1 × clip that became neither a sample nor a drop: {clip_id}"]


def test_a_lost_drop_is_noticed(found: Dataset) -> None:
    lost = changed(found, drops=found.drops.slice(0, 0))
    (clip_id,) = found.drops["clip_id"]
    assert figures(lost)["not_accounted"] == [f"1 × clip that became neither a sample nor a drop: {clip_id}"]


def test_a_doubled_sample_is_noticed(found: Dataset) -> None:
    twice = changed(found, samples=pa.concat_tables([found.samples, found.samples.slice(0, 1)]))
    sample_id = found.samples["sample_id"][0]
    assert figures(twice)["not_accounted"] == [f"1 × sample that stands twice in the index: {sample_id}"]


def test_a_file_that_gave_no_clip_is_noticed(found: Dataset) -> None:
    video_id = found.clips["video_id"][0]
    lost = changed(found, clips=found.clips.filter(pc.not_equal(found.clips["video_id"], video_id)))
    assert f"1 × file that was read and gave no clip: {video_id}" in figures(lost)["not_accounted"]


def test_a_lost_request_is_noticed(found: Dataset) -> None:
    lost = changed(found, manifest=found.manifest.slice(0, len(found.manifest) - 1))
    n = len(found.manifest)
    assert figures(lost)["not_accounted"] == [f"{n} requests read, and the manifest has {n - 1} rows"]


def test_two_requests_with_one_output_are_noticed(found: Dataset) -> None:
    rows = found.manifest.to_pylist()
    twice = pa.Table.from_pylist([*rows, rows[0] | {"line": 99}], found.manifest.schema)
    (line, _) = figures(changed(found, manifest=twice))["not_accounted"]
    assert line.startswith("1 × output that two requests claim: ")
