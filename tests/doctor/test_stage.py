"""The doctor on a real cluster: what is well and what is not, and nothing left behind."""

from pathlib import Path

import pytest
from PIL import Image

from vitascope import config, storage
from vitascope.doctor import stage
from vitascope.stages import resources


def levels(told: dict) -> dict[str, str]:
    return {finding["what"]: finding["level"] for finding in told["findings"]}


def test_a_run_that_can_begin(ray_cluster: None, tmp_path: Path, s3: str) -> None:  # noqa: ARG001
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "blue.png")
    settings = config.load(None, [f"run.folder={s3}/run", f"clips.input={tmp_path}"])
    told = stage.run(settings)
    assert {what for what, level in levels(told).items() if level == "problem"} <= {"memory and disk"}
    assert storage.list_files(f"{s3}/run") == []


def test_a_run_that_cannot(
    ray_cluster: None,  # noqa: ARG001
    tmp_path: Path,
    s3: str,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "notes.mp4").write_text("no video\n" * 100)
    wrong = [f"clips.input={tmp_path}", f"generate.requests={tmp_path}/none.jsonl", "train.ranks=64"]
    wrong += [f"run.folder={s3}-gone/run", "cluster.place_by_label=true", "generate.use_gpu=true"]
    told = stage.run(config.load(None, wrong))
    problems = {what for what, level in levels(told).items() if level == "problem"}
    assert problems >= {"storage", "CPUs", "GPUs", "labels", "input", "requests"}
    assert not told["healthy"]
    said = capsys.readouterr().out
    assert "train's ranks and feed take 66 CPUs at once" in said
    assert "notes.mp4: unreadable" in said
    assert resources.of_generation(config.load(None)).cpus < 66
