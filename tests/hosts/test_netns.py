"""Hosts on a network that can be cut: work survives a cut-off node, and one that is taken back."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.namespaces import Command, needs_hosts, wait_until
from hosts.netns import Net, hosts
from hosts.watch import Node

pytestmark = needs_hosts

# Every piece of work leaves a mark on the shared disk when it begins, named after the host that it runs on.
BEGIN = """
import os, platform, sys, time, uuid
import ray
folder, pieces, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ray.init(log_to_driver=False)
def work(i):
    open(f"{folder}/{platform.node()}-{i}-{uuid.uuid4().hex}", "w").close()
    time.sleep(seconds)
    return i
"""
TASKS = """
task = ray.remote(num_cpus=1, max_retries=-1)(work)
done = ray.get([task.remote(i) for i in range(pieces)])
print("all once:", sorted(done) == list(range(pieces)))
"""
DATA = """
import ray.data
def row(row):
    return {"id": work(row["id"])}
rows = ray.data.range(pieces, override_num_blocks=pieces).map(row, num_cpus=1).take_all()
done = [row["id"] for row in rows]
print("all once:", sorted(done) == list(range(pieces)))
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """A head and two workers of two slots each."""
    with hosts(2, tmp_path_factory.mktemp("net")) as net:
        head_s = net.start_head()
        for i in (1, 2):
            net.start_worker(i, {"vitascope-node": "decode"}, num_cpus=2, wait=False)
        workers_s = net.wait_alive(1) + net.wait_alive(2)
        print(f"\nhead up after {head_s:.1f} s, both workers {workers_s:.1f} s later")
        yield net


def start(net: Net, code: str, folder: Path, *, pieces: int = 40, seconds: float = 1) -> Command:
    """Starts the workload; returns when both slots of worker 1 have work."""
    command = [sys.executable, "-c", BEGIN + code, str(folder), str(pieces), str(seconds)]
    workload = net.popen("head", command, RAY_ADDRESS=net.gcs_address)
    wait_until(
        lambda: len(begun(folder, "worker1")) > 1 or workload.poll() is not None, 120, "work on worker1"
    )
    assert workload.poll() is None, workload.said()
    return workload


def begun(folder: Path, host: str) -> list[int]:
    """The pieces of work that a host has begun with."""
    return [int(path.name.split("-")[1]) for path in folder.glob(f"{host}-*")]


def finish(workload: Command) -> None:
    said = workload.result(180, check=True).stdout
    assert "all once: True\n" in said, (
        said
    )  # Ray reports its losses on the same stream, before it or after it


def ended_last(net: Net) -> Node:
    return max((node for node in net.watch.now().nodes if not node.alive), key=lambda node: node.end_s or 0)


def test_a_cluster_forms_over_the_network(net: Net) -> None:
    assert sorted((node.ip, node.kind) for node in net.alive_nodes()) == [
        ("10.77.0.1", "head"),
        ("10.77.0.2", "decode"),
        ("10.77.0.3", "decode"),
    ]
    assert net.run("worker1", ["cat", "/proc/sys/kernel/hostname"]).stdout == "worker1\n"


def test_what_cannot_be_done_is_refused(net: Net) -> None:
    with pytest.raises(ValueError, match="no host 'worker3'; there are head, worker1, worker2"):
        net.run("worker3", ["true"])
    with pytest.raises(ValueError, match=r"worker1 has a node already; kill\(1\)"):
        net.start_worker(1, {}, num_cpus=1)


@pytest.mark.nightly
@pytest.mark.parametrize("code", [TASKS, DATA], ids=["tasks", "data"])
def test_work_goes_on_without_a_host_that_is_cut_off(net: Net, code: str, tmp_path: Path) -> None:
    workload = start(net, code, tmp_path)
    net.cut(1)
    cut = time.monotonic()
    missed_s = net.wait_gone(1)
    finish(workload)
    done_s = time.monotonic() - cut
    healed_s = net.heal(1)
    assert net.node(1) is not None
    print(f"\nmissed after {missed_s:.1f} s, all done {done_s:.1f} s after the cut, back in {healed_s:.1f} s")


@pytest.mark.nightly
def test_a_cut_too_short_to_be_missed_costs_nothing(net: Net) -> None:
    before = net.node(1)
    net.cut(1)
    time.sleep(1)
    net.heal(1)
    after = net.node(1)
    assert before is not None
    assert after is not None
    assert after.node_id == before.node_id


@pytest.mark.nightly
def test_work_moves_off_a_host_that_is_taken_back(net: Net, tmp_path: Path) -> None:
    workload = start(net, TASKS, tmp_path)
    net.drain(1, deadline_s=6)
    at_notice = len(begun(tmp_path, "worker1"))
    net.wait_gone(1)
    finish(workload)
    # Nothing new starts, except work on its way to the two slots; running work ends there.
    assert len(begun(tmp_path, "worker1")) <= at_notice + 2
    assert len(begun(tmp_path, "worker*")) == 40
    assert "preemption" in ended_last(net).why
    net.wait_killed(1)
    with pytest.raises(ValueError, match="no node on worker1"):
        net.drain(1, deadline_s=1)
    joined_s = net.start_worker(1, {"vitascope-node": "decode"}, num_cpus=2)
    print(f"\na new node in its place {joined_s:.1f} s after its start")


@pytest.mark.nightly
def test_what_is_not_done_at_the_deadline_is_done_again_elsewhere(net: Net, tmp_path: Path) -> None:
    workload = start(net, TASKS, tmp_path, pieces=4, seconds=15)
    net.drain(1, deadline_s=3)
    noticed = time.time()
    net.wait_killed(1)
    net.wait_gone(1)
    lost = begun(tmp_path, "worker1")
    finish(workload)
    assert len(lost) == 2
    assert set(lost) <= set(begun(tmp_path, "worker2"))
    done_s = time.time() - noticed
    ended = ended_last(net)
    net.start_worker(1, {"vitascope-node": "decode"}, num_cpus=2)
    gone_s = (ended.end_s or 0) - noticed
    print(f"\ngone {gone_s:.1f} s after the notice ({ended.why}), all done after {done_s:.1f} s")
