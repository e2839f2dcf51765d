"""What is settled before any worker of a training run starts."""

from pathlib import Path

import pytest

from synthetic import make_run
from vitascope import config, storage
from vitascope.train import trainer
from vitascope.train.trainer import plan_job


def test_locations_mean_the_same_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train gives its workers a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    job = plan_job(make_run("runs/relative"))
    assert job.metrics == str(tmp_path / "runs/relative/train/metrics")
    assert job.latents.startswith(str(tmp_path / "runs/relative/latents/"))


def test_without_samples_the_reasons_are_named_and_no_worker_starts(tmp_path: Path) -> None:
    settings = make_run(str(tmp_path), n_samples=0, n_shards=1)
    counted = {"clips": {"no_caption": 4, "unreadable": 1}, "encode": {"no_bucket": 2}}
    for stage, reasons in counted.items():
        storage.put_json(settings.path("summaries", f"{stage}.json"), {"dropped_by_reason": reasons})
    with pytest.raises(ValueError, match="no_caption 4, no_bucket 2, unreadable 1"):
        trainer.run(settings)


def test_without_latents_the_stage_to_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vitascope encode"):
        trainer.run(config.load(None, [f"run.folder={tmp_path}"]))
