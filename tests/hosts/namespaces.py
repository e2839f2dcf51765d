"""A private host: processes in Linux namespaces of their own.

A `Host` has its own processes, mounts, host name, network, /tmp/ray and /dev/shm; it shares the rest of the
disk. All that runs on it ends with it, and it ends with the thread that booted it: nothing is left behind,
whatever happens to the test.
"""

import functools
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux"}
SKIPPED = "no hosts can be made here"
NAMESPACES = ("--mount", "--uts", "--net")

# How soon a lost node is noticed. The keepalives matter most: without them a call to a node behind a cut link
# hangs for minutes after the node was declared dead.
QUICK_FAILURE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}

# $1 name, $2 folder, $3 size of /dev/shm. The shell stays as the namespace's first process and reaps orphans.
BOOT = """
set -e
ip link set lo up
echo "$1" > /proc/sys/kernel/hostname
mkdir -p /tmp/ray
mount --bind "$2/ray" /tmp/ray
mount --bind "$2/hosts" /etc/hosts
[ ! -e /etc/resolv.conf ] || mount --bind "$2/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o "size=$3,mode=1777" tmpfs /dev/shm
echo booted
sleep infinity & wait
"""


@functools.cache
def missing() -> str | None:
    """Why no host can be made here, and what to do about it; None if one can."""
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        packages = sorted({TOOLS[tool] for tool in lacking})
        return f"needs {', '.join(lacking)}: apt-get install {' '.join(packages)}"
    trial = ["unshare", "--pid", "--fork", "--mount-proc", *NAMESPACES, "ip", "link", "set", "lo", "up"]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    return (
        f"needs root and the right to make namespaces: {tried.stderr.strip()}" if tried.returncode else None
    )


needs_hosts = pytest.mark.skipif(missing() is not None, reason=f"{SKIPPED}: {missing()}")


def write_token(folder: Path) -> Path:
    """Makes a new Ray token that only its owner can read, and gives the file."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    return path


def ray_environment(token: Path, more: Mapping[str, str]) -> dict[str, str]:
    """The environment of Ray's processes and clients: this Python first, `token` required, nodes soon missed.

    Ray's own variables of this process are left out: they speak of another cluster.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    return inherited | {"PATH": path, "PYTHONUNBUFFERED": "1"} | ray | QUICK_FAILURE | dict(more)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Waits until `condition` holds; gives the seconds it took.

    Raises:
        TimeoutError: naming `what`, when it does not hold within `timeout_s`.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


class Command(subprocess.Popen):
    """A command that runs on a host; what it says goes to `out` and `err`, which are files.

    Signals reach the command itself, though this process sees only the `nsenter` before it.
    """

    def __init__(self, before: Sequence[str], command: Sequence[str], log: Path, **options: Any) -> None:
        self.name, self.out, self.err = shlex.join(command), log.with_suffix(".out"), log.with_suffix(".err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            super().__init__([*before, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options)

    def send_signal(self, sig: int) -> None:
        """Sends `sig` to the command; to `nsenter` if the command has not begun."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        inner = children.read_text().split() if self.poll() is None else []
        if inner:
            os.kill(int(inner[0]), sig)
        else:
            super().send_signal(sig)

    def said(self) -> str:
        """The end of its output so far, on both streams."""
        return "".join(stream.read_text(errors="replace")[-4000:] for stream in (self.out, self.err))

    def result(self, timeout_s: float, *, check: bool) -> subprocess.CompletedProcess[str]:
        """Waits for the end.

        Raises:
            TimeoutError: when it runs for longer than `timeout_s`; it is killed.
            RuntimeError: when it failed and `check` is set; both with its output.
        """
        try:
            self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"{self.name} ran for more than {timeout_s:g} s:\n{self.said()}") from None
        if check and self.returncode:
            raise RuntimeError(f"{self.name} failed with {self.returncode}:\n{self.said()}")
        out, err = self.out.read_text(errors="replace"), self.err.read_text(errors="replace")
        return subprocess.CompletedProcess(self.args, self.returncode, out, err)


class Host:
    """A booted host; `kill` ends it and all that runs on it."""

    def __init__(
        self, name: str, folder: Path, *, env: Mapping[str, str], addresses: Mapping[str, str], shm_bytes: int
    ) -> None:
        """Boots it, which takes a tenth of a second.

        Args:
            name: its host name.
            folder: a new folder for its /tmp/ray and for the logs of its commands.
            env: what its commands run with.
            addresses: host names and the addresses they stand for; there is no other name service.
            shm_bytes: size of its /dev/shm.

        Raises:
            RuntimeError: when it does not boot, with the kernel's output.
        """
        self.name, self.folder, self._env, self._count = name, folder, dict(env), 0
        (folder / "ray").mkdir(parents=True)
        names = [f"{address} {host}\n" for host, address in addresses.items()]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(names))
        (folder / "resolv.conf").touch()
        kept = ["setpriv", "--pdeathsig", "KILL"]
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *NAMESPACES]
        script = ["bash", "-c", BOOT, "boot", name, str(folder), str(shm_bytes)]
        self._init = Command([*kept, *own], script, folder / "boot", start_new_session=True)
        wait_until(lambda: self._init.poll() is not None or bool(self._init.out.read_text()), 120, "boot")
        if self._init.poll() is not None:
            raise RuntimeError(f"host {name} did not boot: {self._init.said()}")

    @property
    def pid(self) -> int:
        """A process, seen from outside, in whose network a link can be put."""
        return self._init.pid

    @property
    def is_up(self) -> bool:
        return self._init.poll() is None

    def popen(self, command: Sequence[str], **env: str) -> Command:
        """Starts `command` on the host, in the caller's working directory; it ends with this process.

        `terminate()`, `kill()` and `send_signal()` reach the command; `said()` is its output so far.
        """
        self._count += 1
        log = self.folder / f"{self._count:03}-{Path(command[0]).name}"
        enter = ["nsenter", "--target", str(self.pid), *NAMESPACES]
        enter += [f"--pid=/proc/{self.pid}/ns/pid_for_children", f"--wd={os.getcwd()}", "--"]
        kept = ["setpriv", "--pdeathsig", "TERM", "--"]
        return Command([*enter, *kept], command, log, env=self._env | env)

    def run(
        self, command: Sequence[str], *, timeout_s: float = 300, check: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs `command` to its end; raises as `Command.result` does."""
        return self.popen(command, **env).result(timeout_s, check=check)

    def kill(self) -> None:
        """Ends the host at once, and with it every process on it."""
        self._init.kill()
        self._init.wait()
