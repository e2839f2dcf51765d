"""Every command checks its settings first, and a user's mistake is one clear message."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vitascope import cli, config
from vitascope.config import Settings

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Puts a stage in place that only notes its settings."""
    seen: list[Settings] = []

    def load(name: str) -> Any:
        assert name == "train"
        return lambda settings: seen.append(settings) or {}

    monkeypatch.setattr(cli, "load_stage", load)
    return seen


def test_a_stage_gets_the_settings_with_overrides_and_they_are_saved(
    ran: list[Settings], tmp_path: Path
) -> None:
    status = cli.main(["train", "--set", "train.lr=5e-5", "--set", f"run.folder={tmp_path}"])
    assert status == 0
    assert ran[0].train.lr == 5e-5
    assert config.load(str(tmp_path / "settings.toml")) == ran[0]


def test_locations_are_the_same_for_every_command(
    ran: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Ids depend on them, and workers have folders of their own."""
    monkeypatch.chdir(tmp_path)
    given = ["--set", "run.folder=run", "--set", "caption.folder=models/vlm"]
    assert cli.main(["train", *given]) == 0
    assert ran[0].run.folder == str(tmp_path / "run")
    assert ran[0].caption.folder == str(tmp_path / "models" / "vlm")
    capsys.readouterr()
    assert cli.main(["config", *given]) == 0
    assert config.to_toml(ran[0]) == capsys.readouterr().out


def test_nothing_starts_and_nothing_is_written_with_a_wrong_setting(
    ran: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    status = cli.main(["train", "--set", "clips.fsp=8", "--set", f"run.folder={tmp_path / 'run'}"])
    assert status == 2
    assert "unknown key 'fsp'; did you mean 'fps'" in capsys.readouterr().err
    assert ran == []
    assert not (tmp_path / "run").exists()


def test_config_prints_settings_that_load_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["config", "--set", "train.steps=7"]) == 0
    (tmp_path / "again.toml").write_text(capsys.readouterr().out)
    assert config.load(str(tmp_path / "again.toml")).train.steps == 7


@pytest.mark.parametrize("command", ["config", "encode", "clips"])
def test_buckets_that_do_not_fit_are_refused_before_anything_starts(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [command, "--set", "encode.buckets=[[17,50,50]]", "--set", f"run.folder={tmp_path}"]
    assert cli.main(words) == 2
    assert "17x50x50 has a side that is no multiple of 16 px" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_config_prints_the_schema(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["config", "--schema"]) == 0
    assert "train" in json.loads(capsys.readouterr().out)["properties"]


def test_missing_input_is_a_message_and_not_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(REPO / "jobs" / "evaluate.py"), "--set", f"run.folder={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vitascope evaluate: ")
    assert "run `vitascope encode` with these settings first" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "load_stage", lambda _: lambda _: json.loads("{"))
    with pytest.raises(json.JSONDecodeError):
        cli.main(["train", "--set", f"run.folder={tmp_path}"])


@pytest.mark.parametrize("stage", cli.STAGES)
def test_every_stage_has_an_entry_point_and_a_job_of_its_name(stage: str) -> None:
    assert callable(cli.load_stage(stage))
    assert f'main(["{stage}", *sys.argv[1:]])' in (REPO / "jobs" / f"{stage}.py").read_text()
