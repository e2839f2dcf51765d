"""Ending processes: a slow one is waited for, a deaf one killed, and neither fails a test."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from processes import ended

SLOW = (
    "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1.5), sys.exit(7))); "
    "print(1, flush=True)"
)
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
PARENT = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    "start_new_session=True); "
    "print(child.pid, flush=True)"
)


def running(code: str) -> tuple[subprocess.Popen, int]:
    """A process that waits after `code`, and the number that it printed."""
    command = [sys.executable, "-c", f"{code}\nimport time\ntime.sleep(600)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_slow_process_is_waited_for() -> None:
    assert ended(running(SLOW)[0]) == 7


def test_a_process_that_does_not_listen_is_killed() -> None:
    assert ended(running(DEAF)[0], patience_s=0.5) == -signal.SIGKILL


def test_a_process_that_has_ended_keeps_its_status() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    assert ended(process) == 3


@pytest.mark.parametrize("code", [PARENT, f"{DEAF.partition('print')[0]}\n{PARENT}"], ids=["heeds", "deaf"])
def test_its_children_end_with_it(code: str) -> None:
    process, child = running(code)
    ended(process, patience_s=1)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
