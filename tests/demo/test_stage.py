"""Which videos and requests the demo takes; its stages stand still here, the flow's test runs them."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from vitascope import cli, config, storage
from vitascope.config import Settings
from vitascope.demo import inputs
from vitascope.demo import stage as flow
from vitascope.stages.registry import Stage

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Stages that only note the settings they are given, the report's last."""
    seen: list[Settings] = []

    def note(settings: Settings) -> dict[str, bool]:
        seen.append(settings)
        return {"succeeded": True}

    monkeypatch.setattr(Stage, "load", lambda _: note)
    monkeypatch.setattr(inputs, "gather_stills", lambda folder: storage.put(f"{folder}/still.png", b"-"))
    monkeypatch.setattr(inputs, "gather", lambda folder: storage.put(f"{folder}/{inputs.BROKEN}", b"-"))
    return seen


def demo(*overrides: str) -> Settings:
    return config.load(config.default_config("demo"), list(overrides))


def test_the_demos_media_lie_in_the_runs_folder_wherever_that_is(
    given: list[Settings], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    flow.run(demo(f"run.folder={run}"))
    assert {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} == {
        f"input/{inputs.BROKEN}",
        "media/still.png",
        "requests.jsonl",
        "settings.resolved.toml",
    }
    assert {settings.clips.input for settings in given} == {str(run / "input")}
    assert config.load(str(run / "settings.resolved.toml")) == given[-1]


def test_saved_settings_make_the_same_demo_again(given: list[Settings], tmp_path: Path) -> None:
    flow.run(demo(f"run.folder={tmp_path}"))
    (tmp_path / "input" / inputs.BROKEN).unlink()
    flow.run(config.load(str(tmp_path / "settings.resolved.toml")))
    assert (tmp_path / "input" / inputs.BROKEN).exists()
    assert given[0].clips == given[-1].clips


def test_the_users_videos_are_taken_and_nothing_is_put_beside_them(
    given: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    sample = {"clip_id": "a", "caption": "my cat", "n_frames": 1, "height": 64, "width": 96}
    monkeypatch.setattr(flow, "read_index", lambda _: pa.Table.from_pylist([sample]))
    monkeypatch.setattr(
        flow, "clip_rows", lambda _: iter([{"clip_id": "a", "kind": "image", "uri": "a.png"}])
    )
    flow.run(demo(f"clips.input={tmp_path / 'mine'}", f"run.folder={tmp_path / 'run'}"))
    assert not list((tmp_path / "mine").iterdir())
    assert not (tmp_path / "run" / "input").exists()
    assert {settings.clips.input for settings in given} == {str(tmp_path / "mine")}
    requests = given[-1].generate.requests
    assert requests == str(tmp_path / "run" / "requests.jsonl")
    made = [json.loads(line) for line in Path(requests).read_text().splitlines()]
    assert {(request["prompt"], request.get("image")) for request in made} == {
        ("my cat", None),
        ("my cat", "a.png"),
    }


def test_of_the_users_videos_some_are_held_out() -> None:
    assert demo().clips.val_share > 0
    assert demo().clips.input is None


NAMES = [
    "mine",
    "s3://b/my cats/",
    "a$b $HOME ${X} $(BIN) $$",
    'it\'s "quoted"',
    "#1",
    "-x",
    "a;b&c|d*",
    "`date`",
]


@pytest.mark.parametrize("videos", [None, *NAMES])
@pytest.mark.parametrize("by_environment", [False, True])
def test_make_takes_the_users_videos_literally(
    videos: str | None, *, by_environment: bool, tmp_path: Path
) -> None:
    expected = ["demo", *([f"--videos={videos}"] if videos else [])]
    (tmp_path / "vitascope").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "vitascope").chmod(0o755)
    arguments = [f"BIN={tmp_path}", *([f"VIDEOS={videos}"] if videos and not by_environment else [])]
    command = ["make", "--silent", "--old-file", ".venv/.done", "demo", *arguments]
    # The tests may be run by a make that has arguments of its own.
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))
    }
    env |= {"VIDEOS": videos} if videos and by_environment else {}
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == expected


@pytest.mark.parametrize(
    ("videos", "name"), [("in/my cats/", "my cats"), ("a$HOME", "a$HOME"), ("s3://b/x", "x")]
)
def test_the_users_videos_get_a_run_of_their_own(
    videos: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[Settings] = []
    monkeypatch.setattr(cli, "load_stage", lambda _: lambda settings: seen.append(settings) or {})
    assert cli.main(["demo", f"--videos={videos}"]) == 0
    assert cli.main(["demo", f"--videos={videos}", "--set", "run.folder=other"]) == 0
    assert {own.clips.input for own in seen} == {storage.absolute(videos)}
    folders = [own.run.folder for own in seen]
    assert folders == [str(tmp_path / "runs" / f"own-{name}"), str(tmp_path / "other")]
