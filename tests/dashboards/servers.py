"""Real servers for the tests of dashboards: Prometheus, and a Ray cluster of their own."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from processes import ended

REPO = Path(__file__).resolve().parents[2]
DASHBOARDS = REPO / "dashboards"
SERVERS = REPO / ".servers" / "prometheus" / "usr" / "bin"


def binary(name: str) -> str:
    """The path of `prometheus` or `promtool`: the project's own, or else an installed one."""
    found = shutil.which(name, path=str(SERVERS)) or shutil.which(name)
    if found is None:
        pytest.fail(f"no {name}; run `make .servers/.done`, or install Prometheus")
    return found


def promtool(*arguments: object) -> str:
    """Runs promtool and returns its output; fails the test if it reports a problem."""
    done = subprocess.run(
        [binary("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Returns once `condition` holds; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API; AssertionError if it refuses."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, expression: str, start: float, end: float) -> list[float]:
        """Every value that an expression had in a stretch of time, a second apart."""
        span = {"start": str(start), "end": str(end), "step": "1"}
        series = self.get("query_range", query=expression, **span)["result"]
        return [float(value) for one in series for _, value in one["values"]]

    def is_up(self) -> bool:
        """Whether it answers."""
        with suppress(OSError):
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).status == 200
        return False


@contextmanager
def prometheus(folder: Path, discovery: Path | None = None) -> Iterator[Prometheus]:
    """Runs Prometheus with the project's own configuration, each second, on the targets that Ray names."""
    config = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DASHBOARDS / "alerts.yaml")]
    for job in config["scrape_configs"]:
        job["file_sd_configs"] = [
            {"files": [str(discovery or folder / "none.json")], "refresh_interval": "1s"}
        ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        wait_for(running.is_up, f"Prometheus; see {folder / 'prometheus.log'}")
        yield running
    finally:
        ended(server)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster of one node, and the environment of those who may join it."""

    folder: Path
    environment: dict[str, str]

    @property
    def discovery(self) -> Path:
        """The file in which Ray names its metrics pages."""
        return self.folder / "prom_metrics_service_discovery.json"


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Starts Ray with token authentication, and ends what it has started.

    folder: with a short name, since a socket's path may have 107 characters.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_metrics_report_interval_ms": "5000",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=8"]
    command += [f"--port={port}", f"--dashboard-port={free_port()}", f"--temp-dir={folder / 'ray'}"]
    command += ["--disable-usage-stats", "--object-store-memory=500000000"]
    with (folder / "ray.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        started = Cluster(folder / "ray", environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"})
        wait_for(
            lambda: "--block" in (folder / "ray.log").read_text() or head.poll() is not None, "Ray's start"
        )
        wait_for(lambda: _n_targets(started.discovery) >= 3, f"its metrics; see {folder / 'ray.log'}")
        yield started
    finally:
        ended(head)


def _n_targets(discovery: Path) -> int:
    with suppress(OSError, ValueError):
        return sum(len(group["targets"]) for group in json.loads(discovery.read_text()))
    return 0
