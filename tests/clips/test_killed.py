"""The stage, its processes killed: what is committed stays, and the end is as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from media import noisy_video

from vitascope import config, storage
from vitascope.clips.pipeline import run
from vitascope.config import Settings

pytestmark = [pytest.mark.nightly, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]
N_VIDEOS = 48
DRIVER = """
import sys
from vitascope import config
from vitascope.clips.pipeline import run
run(config.load(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for i in range(N_VIDEOS):
        noisy_video(folder / f"{i:02d}.mkv", seconds=4 + i % 3)
        (folder / f"{i:02d}.txt").write_text(f"noise {i}")
    return folder


def settings(source: Path, folder: Path) -> Settings:
    sections = {"run": {"folder": str(folder)}, "clips": {"input": str(source), "duplicates": "exact"}}
    return Settings.model_validate(sections)


def tables(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return storage.rows(f"{folder}/videos"), storage.rows(f"{folder}/clips")


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(settings(source, folder))["scanned"] == N_VIDEOS
    return tables(folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_driver_costs_what_is_not_committed(
    source: Path, tmp_path: Path, undisturbed: tuple[list, list], seed: int
) -> None:
    ours = settings(source, tmp_path)
    config.save(ours)
    parts = random.Random(seed).randint(1, 30)
    environment = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, ours.path("settings.toml")], env=environment)
    while len(storage.list_files(f"{tmp_path}/catalog")) < parts:
        assert driver.poll() is None, "the job ended before it was killed"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # what its workers still commit
    there = len(storage.list_files(f"{tmp_path}/catalog"))
    summary = run(ours)
    assert summary["scanned"] <= N_VIDEOS - there  # each file is a part
    assert tables(tmp_path) == undisturbed


@pytest.mark.parametrize("seed", range(3))
def test_killed_workers_are_replaced(
    source: Path, tmp_path: Path, undisturbed: tuple[list, list], seed: int
) -> None:
    ours, chance = settings(source, tmp_path), random.Random(seed)
    config.save(ours)
    code = [sys.executable, "-c", DRIVER, ours.path("settings.toml")]
    environment = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    driver, killed = subprocess.Popen(code, env=environment), 0
    while driver.poll() is None:
        time.sleep(chance.uniform(0.5, 2))
        working = _working()
        if working and killed < 5:
            chance.choice(working).kill()
            killed += 1
    assert (driver.returncode, killed > 0) == (0, True)
    assert tables(tmp_path) == undisturbed


def _working() -> list[psutil.Process]:
    """Ray's workers on the stage's tasks, and the processes that decode for them."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if "ray::Map" in words or "vitascope.clips.isolate" in words:
            found.append(process)
    return [p for p in found if psutil.Process() in p.parents()]
