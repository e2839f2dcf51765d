"""Every command checks its settings first, and a user's mistake is one clear message."""

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from safetensors import SafetensorError

from vitascope import cli, config, storage
from vitascope.caption import answers
from vitascope.cluster import local
from vitascope.config import Settings
from vitascope.errors import Failed, Mistake
from vitascope.feed.plan import Position
from vitascope.progress import Stopped
from vitascope.stages import runner
from vitascope.train.job import State

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def this_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that was stopped ends its Ray, which here is that of all tests."""
    monkeypatch.setattr(local, "end", lambda: None)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Puts a stage in place that only notes its settings."""
    seen: list[Settings] = []

    def load(name: str) -> Any:
        assert name == "train"
        return lambda settings: seen.append(settings) or {}

    monkeypatch.setattr(cli, "load_stage", load)
    return seen


@pytest.mark.parametrize(
    ("summary", "status"), [({}, 0), ({"succeeded": True}, 0), ({"succeeded": False}, 4)]
)
def test_a_stage_that_did_not_succeed_has_an_exit_status_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, summary: dict, status: int
) -> None:
    monkeypatch.setattr(cli, "load_stage", lambda _: lambda _: summary)
    assert cli.main(["generate", "--set", f"run.folder={tmp_path}"]) == status


def test_a_stage_gets_the_settings_with_overrides_and_they_are_saved(
    ran: list[Settings], tmp_path: Path
) -> None:
    status = cli.main(["train", "--set", "train.lr=5e-5", "--set", f"run.folder={tmp_path}"])
    assert status == 0
    assert ran[0].train.lr == 5e-5
    assert config.load(str(tmp_path / "settings.resolved.toml")) == ran[0]


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


def raised_below_our_frames(error: str) -> None:
    """Errors of C code: their innermost frame is ours."""
    {
        "zip": lambda: list(zip([1], [], strict=True)),
        "int": lambda: int("x"),
        "decode": lambda: b"\xff".decode(),
        "json": lambda: json.loads("{"),
        "open": lambda: open("/nowhere/of/ours"),  # noqa: SIM115
        "call": lambda: len(1),  # type: ignore[arg-type]
    }[error]()


BUGS = ["zip", "int", "decode", "json", "open", "call"]


def staged(monkeypatch: pytest.MonkeyPatch, stage: Callable[[], Any]) -> None:
    monkeypatch.setattr(cli, "load_stage", lambda _: lambda _: stage())


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_keeps_its_traceback(bug: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(raised_below_our_frames.__globals__, "__name__", "vitascope.of.ours")
    staged(monkeypatch, lambda: raised_below_our_frames(bug))
    with pytest.raises((ValueError, OSError, TypeError)):
        cli.main(["train", "--set", f"run.folder={tmp_path}"])


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.usefixtures("ray_cluster")
def test_a_bug_on_ray_keeps_its_traceback(bug: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = ray.remote(raised_below_our_frames)
    staged(monkeypatch, lambda: ray.get(task.remote(bug)))
    with pytest.raises((ValueError, OSError, TypeError), match="raised_below_our_frames"):
        cli.main(["train", "--set", f"run.folder={tmp_path}"])


def mistaken(row: Any = None) -> Any:  # noqa: ARG001
    raise answers.Unusable("the folder /m holds no model; set caption.folder")


def of_a_task() -> Any:
    return ray.get(ray.remote(mistaken).remote())


def of_ray_data() -> Any:
    return list(ray.data.from_items([1]).map(mistaken).iter_rows())


def full(row: Any) -> Any:  # noqa: ARG001
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.usefixtures("ray_cluster")
def test_a_disk_that_is_full_on_a_worker_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    staged(monkeypatch, lambda: list(ray.data.from_items([1]).map(full).iter_rows()))
    assert cli.main(["clips", "--set", f"run.folder={tmp_path}"]) == cli.FAILED
    said = capsys.readouterr().err
    assert said.startswith("vitascope clips: the disk is full; what is committed so far is kept")
    assert said.count("\n") == 1


@pytest.mark.parametrize("raising", [mistaken, of_a_task, of_ray_data])
@pytest.mark.usefixtures("ray_cluster")
def test_a_mistake_is_one_sentence_wherever_it_is_noticed(
    raising: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    staged(monkeypatch, raising)
    assert cli.main(["train", "--set", f"run.folder={tmp_path}"]) == cli.MISTAKE
    said = capsys.readouterr().err
    assert said == "vitascope train: the folder /m holds no model; set caption.folder\n"


def subclasses(of: type) -> list[type]:
    """Ours: Ray makes some of its own at run time."""
    ours = [c for c in of.__subclasses__() if c.__module__.startswith("vitascope.")]
    return [of, *(c for direct in ours for c in subclasses(direct))]


@pytest.mark.parametrize("kind", [*subclasses(Mistake), *subclasses(Failed), Stopped])
def test_what_is_told_keeps_its_class_and_text_in_other_processes(kind: type) -> None:
    error = pickle.loads(pickle.dumps(kind("what to do")))
    assert (type(error), str(error)) == (kind, "what to do")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Failed("the shards were deleted; run it again"), cli.FAILED, "run it again"),
        (ConnectionError("nothing answers"), cli.FAILED, "nothing answers"),
        (Stopped("after step 3"), cli.STOPPED, "after step 3"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), cli.FAILED, "/data/x"),
        (OSError(errno.EROFS, "Read-only file system"), cli.FAILED, "the disk is read-only"),
        (SafetensorError("I/O error: No space left (os error 28)"), cli.FAILED, "the disk is full"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "RUN/a"), cli.MISTAKE, "RUN/a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_fails_outside_is_a_sentence_too(
    error: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.replace("RUN", str(tmp_path))

    def stage() -> None:
        raise error

    staged(monkeypatch, stage)
    assert cli.main(["train", "--set", f"run.folder={tmp_path}"]) == status
    assert said.replace("RUN", str(tmp_path)) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "flow", "--start", "trian"], "no stage 'trian'; the flow has clips, caption, encode"),
        (["submit", "train", "--start", "encode"], "--start is where flow begins, and train is one stage"),
        (["flow", "--start", "trian"], "no stage 'trian'; the flow has clips, caption, encode"),
    ],
)
def test_a_stage_to_begin_with_is_checked_before_anything_is_asked_for(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main([*words, "--set", f"run.folder={tmp_path / 'run'}"]) == cli.MISTAKE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that only note their names."""
    seen: list[str] = []
    monkeypatch.setattr(cli, "load_stage", lambda name: lambda _: seen.append(name) or {})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return seen


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """Settings of a flow whose input and requests exist."""
    (tmp_path / "in").mkdir()
    (tmp_path / "r.jsonl").touch()
    places = {"run.folder": "run", "clips.input": "in", "generate.requests": "r.jsonl"}
    return [word for key, name in places.items() for word in ("--set", f"{key}={tmp_path / name}")]


def test_a_local_flow_does_what_is_unfinished(
    noting: list[str], given: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["flow", *given]) == 0
    assert noting == ["clips", "encode", "data", "train", "generate", "evaluate", "report"]
    assert cli.main(["flow", *given]) == 0
    assert len(noting) == 7
    capsys.readouterr()
    assert cli.main(["flow", *given, "--set", "generate.steps=3", "--set", "train.ranks=4"]) == 0
    assert noting[7:] == ["generate", "evaluate", "report"]
    assert "to be done again: generate, evaluate, report, because" in (said := capsys.readouterr().out)
    assert "generate.steps: not set before, 3 now" in said
    assert "ranks" not in said


@pytest.mark.parametrize("error", [Failed("the shards were deleted"), Mistake("set clips.fps")])
def test_a_flow_whose_stage_fails_says_why_once_and_goes_on_there(
    error: Exception, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def load(name: str) -> Callable[[Settings], dict]:
        def stage(_: Settings) -> dict:
            tried.append(name)
            if name == "encode" and len(tried) == 2:
                raise error
            return {}

        return stage

    tried: list[str] = []
    monkeypatch.setattr(cli, "load_stage", load)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    status = cli.FAILED if isinstance(error, Failed) else cli.MISTAKE
    assert cli.main(["flow", *given]) == status
    assert capsys.readouterr().err == f"vitascope flow: {error}\n"
    assert cli.main(["flow", *given]) == 0
    assert tried[:4] == ["clips", "encode", "encode", "data"]


def test_a_local_flow_starts_one_ray_for_all_stages(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray, "init", lambda address, **_: started.append(address))
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(started))
    monkeypatch.setattr(cli, "load_stage", lambda _: lambda settings: local.connect(settings.cluster) or {})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cli.main(["flow", *given]) == 0
    assert started == ["local"]


def test_a_run_folder_below_a_file_is_a_sentence(
    noting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/run"):
        assert cli.main(["clips", "--set", f"run.folder={tmp_path / place}"]) == cli.MISTAKE
        assert (said := capsys.readouterr().err).count("\n") == 1
        assert str(tmp_path / "file") in said
    assert noting == []


def test_a_flow_that_training_could_not_go_on_with_is_refused_before_any_work(
    noting: list[str], given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["flow", *given]) == 0
    own = config.load(str(tmp_path / "run" / config.RESOLVED))
    made_with = runner.values_before(own, "train")
    state = State(step=7, ranks=1, shapes={}, identity={}, position=Position(), made_with=made_with)
    storage.put_json(own.path("train", "checkpoints", "step-7", "state.json"), state.model_dump())
    assert cli.main(["flow", *given, "--set", "train.lr=1e-5"]) == 0
    del noting[:]
    capsys.readouterr()
    assert cli.main(["flow", *given, "--set", "clips.fps=12"]) == cli.MISTAKE
    out, err = capsys.readouterr()
    assert "to be done again: clips, encode, data, train" in out
    assert "clips.fps: 8.0 before, 12.0 now" in err
    assert "name another run.folder, or delete train/checkpoints" in err
    assert noting == []


def test_a_stage_says_that_its_tables_were_made_with_other_settings(
    noting: list[str], given: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["clips", *given]) == 0
    assert cli.main(["encode", *given]) == 0
    assert "other settings" not in capsys.readouterr().out
    assert cli.main(["encode", *given, "--set", "clips.durations_s=[3]", "--set", "clips.catalog=x"]) == 0
    said = capsys.readouterr().out
    assert "reads tables made with other settings" in said
    assert "clips.durations_s: [1.0, 2.0] before, [3.0] now" in said
    assert noting == ["clips", "encode", "encode"]


def test_a_stage_done_again_leaves_what_follows_unfinished(noting: list[str], given: list[str]) -> None:
    assert cli.main(["flow", *given]) == 0
    assert cli.main(["encode", *given]) == 0
    del noting[:]
    assert cli.main(["flow", *given]) == 0
    assert noting == ["data", "train", "generate", "evaluate", "report"]


@pytest.mark.parametrize("stage", cli.STAGES)
def test_every_stage_has_an_entry_point_and_a_job_of_its_name(stage: str) -> None:
    assert callable(cli.load_stage(stage))
    assert f'main(["{stage}", *sys.argv[1:]])' in (REPO / "jobs" / f"{stage}.py").read_text()


def test_a_user_of_whom_no_home_is_known_gets_sentences_too(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.path.expanduser = lambda place: place if 'HOME' not in os.environ else "
        "place.replace('~', os.environ['HOME'], 1)\n"  # a uid without a passwd entry
        "from vitascope.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", code, "train", "--set", f"run.folder={tmp_path}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (cli.MISTAKE, 1), done.stderr
    assert "run `vitascope encode` with these settings first" in done.stderr
