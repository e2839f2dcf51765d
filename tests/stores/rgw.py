"""A real S3 server for tests: Ceph RGW 16, which keeps its data when it is killed.

    with Rgw(folder).running() as server:
        os.environ.update(server.environment())
        server.kill9()
        server.start_again()

    python tests/stores/rgw.py COMMAND …    # with a server of its own; BUCKET in it becomes a bucket's URI

Debian's packages, taken apart in `.servers/ceph` by `make .servers/.done` or installed. One monitor, one
object store of 8 GiB (sparse) and the gateway, all of them this user's own processes and files in `folder`,
on free ports of 127.0.0.1. The first start takes 20 s on an idle machine, another 10 s.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

UNPACKED = Path(__file__).resolve().parents[2] / ".servers" / "ceph"
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
keyring = {folder}/keyring
run dir = {folder}/run
admin socket = {folder}/run/$name.sock
log file = {folder}/log/$name.log
pid file = {folder}/run/$name.pid
crash dir = {folder}/log
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
ms bind msgr1 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {folder}/mon
mon data avail crit = 1
[osd]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block create = true
bluestore block size = 8589934592
osd memory target = 1073741824
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
"""
KEYS = {
    "mon.": ("mon 'allow *'",),
    "client.admin": ("mon 'allow *'", "osd 'allow *'", "mgr 'allow *'"),
    "osd.0": ("mon 'allow profile osd'", "osd 'allow *'", "mgr 'allow profile osd'"),
    "client.rgw": ("mon 'allow rwx'", "osd 'allow rwx'", "mgr 'allow rw'"),
}
ACCESS_KEY = SECRET_KEY = "testing"  # as of the other server, so that nodes have them in their environment
ROLES = {"mon": ("ceph-mon", "a"), "osd": ("ceph-osd", "0"), "rgw": ("radosgw", "client.rgw")}


class Rgw:
    """One server with its data in `folder`; what it started, and nothing else, is ended, by process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self._mon_port = _free_port(), _free_port()
        self._root = UNPACKED if (UNPACKED / "usr/bin/radosgw").exists() else Path("/")
        self._libraries = self._root / "usr/lib/x86_64-linux-gnu"
        self._processes: list[subprocess.Popen] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client needs; pyarrow's own client also the last two."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    @contextmanager
    def running(self) -> Iterator["Rgw"]:
        try:
            self._make()
            self.start_again()
            yield self
        finally:
            self.kill9()

    def kill9(self) -> None:
        """Ends every process of it at once, as a power cut would."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def start_again(self) -> None:
        """Starts what was made or killed; returns when it answers."""
        for role in ROLES:
            self._start(role)
        self._wait_until(lambda: _answers(self.port), "the gateway")

    def new_bucket(self) -> str:
        """Makes a new, empty bucket and returns its URI."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        keys = {"key": ACCESS_KEY, "secret": SECRET_KEY, "endpoint_url": self.endpoint}
        fsspec.filesystem("s3", skip_instance_cache=True, **keys).mkdir(bucket)
        return f"s3://{bucket}"

    def _make(self) -> None:
        """Keys, the monitor's and the object store's files, and the user whose keys clients have."""
        for name in ("run", "log", "mon", "osd", "rgw"):
            (self.folder / name).mkdir(parents=True)
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        values = {"fsid": fsid, "folder": self.folder, "libraries": self._libraries}
        ports = {"port": self.port, "mon_port": self._mon_port}
        (self.folder / "ceph.conf").write_text(CONFIG.format(**values, **ports))
        keyring, map_ = str(self.folder / "keyring"), str(self.folder / "monmap")
        for name, rights in KEYS.items():
            caps = [word for right in rights for word in ("--cap", *right.replace("'", "").split(" ", 1))]
            create = [] if Path(keyring).exists() else ["--create-keyring"]
            self._call("ceph-authtool", keyring, *create, "--gen-key", "-n", name, *caps)
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, map_)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_, "--keyring", keyring)
        self._start("mon")
        self._call("ceph", "--connect-timeout", "60", "osd", "new", osd, "0")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._start("osd")
        user = ["--uid=tests", "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}"]
        self._call("radosgw-admin", "user", "create", *user)
        self.kill9()

    def _command(self, program: str, *arguments: str) -> list[str]:
        found = shutil.which(program, path=f"{self._root / 'usr/bin'}:{os.environ['PATH']}")
        assert found, f"no {program}; run `make .servers/.done`"
        python = ["/usr/bin/python3"] if program == "ceph" else []
        return [*python, found, "--conf", str(self.folder / "ceph.conf"), *arguments]

    def _environment(self) -> dict[str, str]:
        libraries = [self._libraries, self._libraries / "ceph", self._root / "lib/x86_64-linux-gnu"]
        return {
            "PATH": os.environ["PATH"],
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(self._root / "usr/lib/python3/dist-packages"),
        }

    def _call(self, program: str, *arguments: str) -> None:
        command = self._command(program, *arguments)
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _start(self, role: str) -> None:
        program, name = ROLES[role]
        which = ["-n", name] if role == "rgw" else ["-i", name]
        with open(self.folder / "log" / f"{role}.out", "ab") as out:
            command = self._command(program, "-f", *which)
            process = subprocess.Popen(command, env=self._environment(), stdout=out, stderr=out)
        self._processes.append(process)

    def _wait_until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 240
        while not ready():
            ended = [p.args for p in self._processes if p.poll() is not None]
            assert not ended, f"{ended} ended; see {self.folder}/log"
            assert time.monotonic() < deadline, f"{what} does not answer; see {self.folder}/log"
            time.sleep(0.2)


def main() -> int:
    """Runs the command of the arguments next to a server, and returns its exit status."""
    with tempfile.TemporaryDirectory() as folder, Rgw(Path(folder)).running() as server:
        bucket = server.new_bucket()
        command = [word.replace("BUCKET", bucket) for word in sys.argv[1:]]
        return subprocess.run(command, env=os.environ | server.environment()).returncode


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Whether an HTTP server is listening, and not only its socket."""
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/")
        return connection.getresponse().status in (200, 403)
    return False


if __name__ == "__main__":
    sys.exit(main())
