"""Private hosts: what is private, how commands run on them, and that nothing outlives them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts import namespaces
from hosts.namespaces import Host, needs_hosts, ray_environment, wait_until, write_token

MIB = 1 << 20
BOOT_AND_SLEEP = """
import sys, time
from pathlib import Path
from hosts.namespaces import Host
host = Host("orphan", Path(sys.argv[1]), env={"PATH": sys.argv[2]}, addresses={}, shm_bytes=1 << 20)
host.popen(["sleep", sys.argv[3]])
print("booted", flush=True)
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    env = ray_environment(write_token(tmp_path), {"COLOUR": "blue"})
    host = Host("here", tmp_path / "here", env=env, addresses={"there": "10.9.8.7"}, shm_bytes=8 * MIB)
    yield host
    host.kill()


def running(argument: str) -> bool:
    """Whether any process of this machine has `argument` on its command line."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return argument in listed


@needs_hosts
def test_a_host_has_its_own_name_network_memory_and_ray_folder(host: Host, tmp_path: Path) -> None:
    asked = (
        "cat /proc/sys/kernel/hostname; ip -brief link; df -m --output=size /dev/shm; grep there /etc/hosts"
    )
    said = host.run(["bash", "-c", f"{asked}; touch /tmp/ray/mark"]).stdout.split()
    assert said[:3] == ["here", "lo", "UNKNOWN"]
    assert said[-3:] == ["8", "10.9.8.7", "there"]
    assert (tmp_path / "here" / "ray" / "mark").exists()
    assert not Path("/tmp/ray/mark").exists()


@needs_hosts
def test_commands_run_with_this_python_and_the_given_environment(host: Host) -> None:
    code = "import os, sys; print(sys.prefix, os.environ['COLOUR'], os.environ['SIZE'])"
    assert host.run(["python", "-c", code], SIZE="4").stdout.split() == [sys.prefix, "blue", "4"]


@needs_hosts
def test_signals_reach_the_command_and_not_only_what_is_before_it(host: Host) -> None:
    work = "echo ready; for i in {1..600}; do sleep 0.1; done"  # a signal just before `wait` would be lost
    command = host.popen(["bash", "-c", f"trap 'echo stopped; exit 7' INT; {work}"])
    wait_until(lambda: "ready" in command.said(), 120, "the trap")
    command.send_signal(signal.SIGINT)
    assert command.wait(120) == 7
    assert command.said().split() == ["ready", "stopped"]


@needs_hosts
def test_what_goes_wrong_says_what_the_command_said(host: Host) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)failed with 3:.*no disk"):
        host.run(["bash", "-c", "echo no disk >&2; exit 3"])
    assert host.run(["bash", "-c", "exit 3"], check=False).returncode == 3
    with pytest.raises(TimeoutError, match=r"(?s)more than 0\.5 s:.*still here"):
        host.run(["bash", "-c", "echo still here; sleep 60"], timeout_s=0.5)


@needs_hosts
def test_with_a_host_everything_on_it_ends(host: Host) -> None:
    host.run(["bash", "-c", "setsid sleep 61234.5 > /dev/null 2>&1 &"])
    wait_until(lambda: running("sleep 61234.5"), 120, "the daemon")
    host.kill()
    assert not host.is_up
    assert not running("sleep 61234.5")


@needs_hosts
def test_a_host_ends_with_the_process_that_made_it(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "orphan"), os.environ["PATH"], "61234.6"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", BOOT_AND_SLEEP, *arguments]
    maker = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdout.readline() == "booted\n"
    wait_until(lambda: running("sleep 61234.6"), 120, "the command")
    maker.kill()
    maker.wait(120)
    wait_until(lambda: not running(f"{tmp_path}/orphan"), 120, "the end of the host")
    wait_until(lambda: not running("61234.6"), 120, "the end of its command")


@needs_hosts
def test_a_host_that_cannot_boot_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)host small did not boot.*mount"):
        Host("small", tmp_path / "small", env={}, addresses={}, shm_bytes=-1)


def test_only_the_owner_reads_the_token(tmp_path: Path) -> None:
    first, second = (write_token(folder) for folder in (tmp_path, _made(tmp_path / "other")))
    assert first.stat().st_mode & 0o777 == 0o600
    assert first.read_text() != second.read_text()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_ray_variables_of_the_tests_do_not_reach_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    env = ray_environment(tmp_path / "token", {"RAY_MORE": "1"})
    assert "RAY_ADDRESS" not in env
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["RAY_MORE"] == "1"


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None if tool == "ip" else "/bin/true")
    assert namespaces.missing.__wrapped__() == "needs ip: apt-get install iproute2"
