"""Ctrl-C and SIGTERM: a stage stops with a sentence, and training with a checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from media.made import corners_video
from synthetic import make_run
from vitascope import cli, config, signals, storage
from vitascope.train import log

CODE = "import sys; from vitascope.cli import main; sys.exit(main(sys.argv[1:]))"


def started(*words: str) -> subprocess.Popen:
    """A command in a process group of its own, as a shell starts it; without any cluster."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *words],
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupted(command: subprocess.Popen, number: int, seen: Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command whose whole group gets a signal, as from a terminal."""
    deadline = time.monotonic() + 180
    while not (seen.exists() or command.poll() is not None) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(command.pid, number)
    try:
        out, err = command.communicate(timeout=120)
    finally:
        command.kill()
    return command.returncode, out, err


BOTH = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, signals.INTERRUPTED), (signal.SIGTERM, cli.STOPPED)]
)


@BOTH
def test_a_stage_that_is_interrupted_says_how_to_go_on(number: int, status: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    corners_video(tmp_path / "in" / "a.mp4", size=(96, 64), seconds=1)
    places = ("--set", f"run.folder={tmp_path / 'run'}", "--set", f"clips.input={tmp_path / 'in'}")
    found = interrupted(started("clips", *places), number, tmp_path / "run" / config.RESOLVED)
    assert found == (status, "", "vitascope clips: stopped; run it again to continue\n")


@pytest.mark.parametrize(("command", "seen"), [("clips", "catalog"), ("flow", "latents")])
def test_ctrl_c_while_files_are_made_is_one_line(command: str, seen: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abcdefgh":
        corners_video(tmp_path / "in" / f"{name}.mp4", size=(96, 64), seconds=4)
        (tmp_path / "in" / f"{name}.txt").write_text("four corners")
    (tmp_path / "r.jsonl").write_text("{}")
    places = {"run.folder": "run", "clips.input": "in", "generate.requests": "r.jsonl"}
    words = [word for key, name in places.items() for word in ("--set", f"{key}={tmp_path / name}")]
    status, _, err = interrupted(started(command, *words), signal.SIGINT, tmp_path / "run" / seen)
    assert (status, err) == (signals.INTERRUPTED, f"vitascope {command}: stopped; run it again to continue\n")


def test_a_stop_while_ray_works_prints_nothing_of_rays(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from vitascope import cli\n"
        "from vitascope.cluster import local\n"
        "from vitascope.config import Settings\n"
        "def stage(settings):\n"
        "    local.connect(Settings().cluster)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "cli.load_stage = lambda name: stage\n"
        "folder = sys.argv[1]\n"
        "places = ['--set', f'run.folder={folder}', '--set', f'clips.input={folder}']\n"
        "sys.exit(cli.main(['clips', *places]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "vitascope clips: stopped; run it again to continue\n"
    assert (found.returncode, found.stdout, found.stderr) == (cli.STOPPED, "", said)


def test_training_that_is_interrupted_leaves_a_checkpoint_first(tmp_path: Path) -> None:
    kept = ["train.steps=5000", "train.checkpoint_every=5000", "train.val_every=5000", "train.ranks=1"]
    settings = make_run(str(tmp_path / "run"), kept)
    (tmp_path / "s.toml").write_text(config.to_toml(settings))
    command = started("train", str(tmp_path / "s.toml"))
    status, out, err = interrupted(command, signal.SIGINT, tmp_path / "run/train/metrics/00000000.jsonl")
    assert status == signals.INTERRUPTED
    assert "stopping after a checkpoint; Ctrl-C again ends at once" in out
    states = storage.list_files(settings.path("train", "checkpoints"))
    (step,) = [storage.read_json(file)["step"] for file in states if file.endswith("/state.json")]
    said = f"training was asked to stop and did after step {step} of 5000; run it again to continue"
    assert err == f"vitascope train: {said}\n"
    assert step == len([row for row in log.read(settings.path("train", "metrics")) if "loss" in row])


def test_a_second_interrupt_ends_at_once() -> None:
    code = (
        "import time; from vitascope import signals\n"
        "with signals.handled():\n"
        "    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        print('first', flush=True); time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    for expected in ("ready", "first"):
        assert command.stdout.readline().strip() == expected
        command.send_signal(signal.SIGINT)
    assert command.wait(60) == signals.INTERRUPTED


@pytest.mark.parametrize(("number", "caught"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "SystemExit")])
def test_a_signal_that_comes_within_a_finalizer_is_not_lost(number: str, caught: str) -> None:
    code = (
        "import os, signal, time; from vitascope import signals\n"
        "class Interrupted:\n"
        f"    def __del__(self): os.kill(os.getpid(), signal.{number}); time.sleep(1)\n"
        "with signals.handled():\n"
        "    try:\n        held = Interrupted(); del held; time.sleep(60); print('lost')\n"
        f"    except {caught}: print('stopped')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "stopped\n", "")
