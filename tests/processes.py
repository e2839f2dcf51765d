"""Ending the processes that tests start, however slow the machine is."""

import subprocess
from contextlib import suppress

import psutil

PATIENCE_S = 60.0


def ended(process: subprocess.Popen, patience_s: float = PATIENCE_S) -> int:
    """Asks a process to end, kills it and its children after `patience_s`, and returns its exit status.

    It never fails: a test's result does not depend on how fast a server ends.
    """
    family = []
    if process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.kill()
    return process.wait()
