"""Processes and nodes killed: what is committed stays, and the end is as if nothing had happened."""

import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flow.disturbed import (
    Onlooker,
    command,
    left,
    moved,
    n_committed,
    prepared,
    processes,
    start,
    wait_for_parts,
)
from hosts.namespaces import needs_hosts, wait_until
from hosts.netns import Net, hosts
from vitascope.config import Settings

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]
COPIES, KILLS = 5, 5
STAGES = ("clips", "encode")
DECODERS, WORKERS = "vitascope.media.isolate", "ray::Map"
AT_WORK = {
    "clips": ("ray::Map(scan_part)", DECODERS),
    "encode": ("ray::MapBatches(decode_shard)", "ray::MapBatches(encode_shard)", DECODERS),
}
"""In the command lines of the processes that do the work."""
LABELS, CPUS = {"vitascope-node": "any"}, 2


class Undisturbed(NamedTuple):
    """The settings of a run, and what each of its stages leaves, in how many parts."""

    settings: Settings
    left: dict[str, dict[str, Any]]
    n_parts: dict[str, int]


@pytest.fixture(scope="module")
def undisturbed(
    ray_cluster: None,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = prepared(folder, str(folder), COPIES)
    for stage in STAGES:
        assert start(settings, stage).wait() == 0
    n_parts = {stage: n_committed(settings, stage) for stage in STAGES}
    return Undisturbed(settings, {stage: left(settings, stage) for stage in STAGES}, n_parts)


def begun(undisturbed: Undisturbed, folder: Path, stage: str) -> Settings:
    """The settings of another run, which has come to `stage`."""
    settings = moved(undisturbed.settings, str(folder / "run"))
    if stage == "encode":
        for table in ("videos", "clips"):
            shutil.copytree(undisturbed.settings.path(table), settings.path(table))
    return settings


@contextmanager
def looked_at(settings: Settings, stage: str, undisturbed: Undisturbed) -> Iterator[None]:
    """Fails if the stage's outputs differ from an undisturbed run's, or committed work was redone."""
    with Onlooker(settings.run.folder).looking() as seen:
        yield
    assert seen.torn == []
    assert left(settings, stage) == undisturbed.left[stage]
    assert {len(versions) for versions in seen.versions_of(stage)} == {1}


def moments(undisturbed: Undisturbed, stage: str, seed: int) -> list[int]:
    """After this many parts something is killed."""
    return sorted(random.Random(seed).sample(range(1, undisturbed.n_parts[stage] // 2), KILLS))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_workers_and_decoders_are_replaced(
    undisturbed: Undisturbed, tmp_path: Path, stage: str
) -> None:
    settings = begun(undisturbed, tmp_path, stage)
    with looked_at(settings, stage, undisturbed):
        driver = start(settings, stage)
        for moment, kind in zip(moments(undisturbed, stage, 0), itertools.cycle(AT_WORK[stage])):
            wait_for_parts(driver, settings, stage, moment)
            kill_one(driver, kind, *AT_WORK[stage])
        assert driver.wait() == 0


def kill_one(driver: subprocess.Popen, kind: str, *others: str) -> None:
    while not (at_work := processes(kind) or processes(*others)):
        assert driver.poll() is None, "the stage ended before it was disturbed"
    random.choice(at_work).kill()


@pytest.mark.parametrize("stage", STAGES)
def test_a_driver_killed_again_and_again_costs_what_is_not_committed(
    undisturbed: Undisturbed, tmp_path: Path, stage: str
) -> None:
    settings = begun(undisturbed, tmp_path, stage)
    with looked_at(settings, stage, undisturbed):
        for moment in moments(undisturbed, stage, 1):
            driver = start(settings, stage)
            wait_for_parts(driver, settings, stage, max(moment, n_committed(settings, stage) + 1))
            driver.kill()
            driver.wait()
            wait_until(lambda: not processes(WORKERS), 60, "the end of its workers")
        assert start(settings, stage).wait() == 0


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with hosts(2, tmp_path_factory.mktemp("net")) as net:
        net.start_head()
        for i in (1, 2):
            net.start_worker(i, LABELS, CPUS)
        yield net


@needs_hosts
@pytest.mark.parametrize(
    ("stage", "seed"), [("clips", 0), ("clips", 1), ("encode", 2), ("encode", 3), ("encode", 4)]
)
def test_a_lost_node_costs_what_it_had_not_committed(
    undisturbed: Undisturbed, net: Net, tmp_path: Path, stage: str, seed: int
) -> None:
    settings, chance = begun(undisturbed, tmp_path, stage), random.Random(seed)
    with looked_at(settings, stage, undisturbed):
        driver = net.popen("head", command(settings, stage), RAY_ADDRESS=net.gcs_address)
        wait_for_parts(driver, settings, stage, chance.randint(1, undisturbed.n_parts[stage] // 2))
        i = chance.choice((1, 2))
        net.kill(i)
        net.wait_gone(i)
        net.start_worker(i, LABELS, CPUS)
        driver.result(900, check=True)
