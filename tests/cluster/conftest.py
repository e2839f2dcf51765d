"""A Ray head that asks for a token, on a host of its own."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hosts.namespaces import QUICK_FAILURE, Command, Host, ray_environment, wait_until, write_token

MIB = 2**20
BIN = Path(sys.executable).parent


@dataclass
class Head:
    """A host with a Ray head of six CPUs on it, whose PATH leads to a Python without Ray.

    temporary: the folder, closed to other users, below which Ray keeps its sessions.
    """

    host: Host
    folder: Path
    temporary: Path

    def vitascope(self, *words: str, **env: str) -> Command:
        return self.host.popen([str(BIN / "vitascope"), *words], **env)

    def done(self, *words: str, **env: str) -> tuple[int, str]:
        """Exit status and output of one of our commands."""
        command = self.vitascope(*words, **env)
        command.wait(300)
        return command.returncode, command.said()

    def python(self, *words: str, **env: str) -> str:
        """The last line that a Python script wrote."""
        return self.host.run([sys.executable, *words], **env).stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    environment = ray_environment(write_token(folder), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    left_out = [name for name in environment if name.startswith("AWS_") or name in QUICK_FAILURE]
    for name in left_out:  # nothing is lost on this host but by a slow machine
        del environment[name]
    temporary = Path(tempfile.mkdtemp(prefix="ray.", dir="/tmp"))  # as cluster/README.md says
    environment["RAY_TMPDIR"] = str(temporary)
    host = _with_a_head(folder, environment)
    try:
        head = Head(host, folder, temporary)
        wait_until(lambda: head.done("jobs", "list")[0] == 0, 300, "a head that lists its jobs")
        yield head
    finally:
        host.kill()
        shutil.rmtree(temporary)


def _with_a_head(folder: Path, environment: dict[str, str]) -> Host:
    """A host on which Ray runs. Ray gives itself 30 s to start, which a busy machine may miss.

    Without --block, which ends all once one process fails, as Ray's client server does after a slow start.
    """
    start = [str(BIN / "ray"), "start", "--head", "--num-cpus=6", f"--object-store-memory={200 * MIB}"]
    failures = []
    for attempt in ("first", "second", "third"):
        addresses = {"head": "127.0.0.1"}
        host = Host("head", folder / attempt, env=environment, addresses=addresses, shm_bytes=600 * MIB)
        try:
            host.run(start)
            return host
        except RuntimeError as error:
            host.kill()
            failures.append(str(error))
    pytest.fail("\n".join(failures))
