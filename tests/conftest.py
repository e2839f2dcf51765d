"""Fixtures that all tests share: one local Ray cluster, one S3 server, and the markers' meaning."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import ray
import s3fs

from processes import ended
from vitascope.cluster.local import connect
from vitascope.cluster.settings import ClusterSettings

REPO = Path(__file__).resolve().parents[1]
MOTO = REPO / ".venv-moto" / "bin" / "moto_server"
SCHEDULED = os.sched_getscheduler(0)
"""The system's scheduling of this process at its start."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips nightly tests unless requested, and GPU tests, unless a GPU was promised: then they fail."""
    if "nightly" not in (config.option.markexpr or ""):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in nightly]
    if any(item.get_closest_marker("gpu") for item in items):
        _mark_gpu_tests([item for item in items if item.get_closest_marker("gpu")])


def _mark_gpu_tests(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available() or os.environ.get("VITASCOPE_EXPECT_GPU") == "1":
        return  # if a GPU was promised and is missing, they run and fail
    for item in items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Reports loudly what a machine without a GPU left untested."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "CUDA device" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} GPU tests were SKIPPED: no CUDA device here "
            "(VITASCOPE_EXPECT_GPU=1 makes them fail instead)",
            yellow=True,
        )


@pytest.fixture(scope="session", autouse=True)  # first of all: processes keep the environment they start with
def s3_server() -> Iterator[str | None]:
    """The endpoint of an S3 server (moto) and the environment to reach it; None if it is not installed."""
    if not MOTO.exists():
        yield None
        return
    with _server(lambda port: [str(MOTO), "-H", "127.0.0.1", "-p", port]) as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "testing"
        os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
        os.environ.pop("AWS_PROFILE", None)
        yield endpoint


@contextmanager
def _server(command: Callable[[str], list[str]]) -> Iterator[str]:
    """Runs `command(port)` and yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(command(str(port)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_listening(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        ended(server)


def _wait_until_listening(server: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"a server did not start; try: {' '.join(map(str, server.args))}")


@pytest.fixture(scope="session")
def new_bucket(s3_server: str | None) -> Callable[[], str]:
    """Makes a new, empty bucket and returns its URI."""

    def make() -> str:
        if s3_server is None:
            pytest.fail(f"no {MOTO}; run `make .venv-moto/.done`, or run the tests with `make test`")
        return _made("s3")

    return make


def _made(scheme: str, **options: str) -> str:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem(scheme, **options).mkdir(bucket)
    return f"{scheme}://{bucket}"


@pytest.fixture
def s3(new_bucket: Callable[[], str]) -> str:
    """The URI of a new, empty bucket."""
    return new_bucket()


@pytest.fixture(autouse=True)
def scheduled_as_others() -> Iterator[None]:
    """No test leaves this process with real-time scheduling, as SVT-AV1 would (`media.made.encoding`)."""
    yield
    assert os.sched_getscheduler(0) == SCHEDULED


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each range that is fetched from an open file on S3."""
    n_bytes: list[int] = []
    fetch = s3fs.core._fetch_range

    def counted(*args: Any, **how: Any) -> bytes:
        content = fetch(*args, **how)
        n_bytes.append(len(content))
        return content

    monkeypatch.setattr(s3fs.core, "_fetch_range", counted)
    return n_bytes


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """The endpoint of an emulator of Google Cloud Storage, and the environment to reach it."""
    with _server(lambda port: [sys.executable, str(REPO / "tests" / "gcs_server.py"), port]) as endpoint:
        os.environ["STORAGE_EMULATOR_HOST"] = endpoint
        yield endpoint


@pytest.fixture(scope="session")
def new_google_bucket(gs_server: str) -> Callable[[], str]:  # noqa: ARG001
    """Makes a new, empty bucket on the emulator of Google Cloud Storage and returns its URI."""
    return lambda: _made("gs", project="test")


@pytest.fixture
def gs(new_google_bucket: Callable[[], str]) -> str:
    """The URI of a new, empty bucket on the emulator of Google Cloud Storage."""
    return new_google_bucket()


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str | None, gs_server: str) -> Iterator[None]:  # noqa: ARG001
    """A local Ray cluster of 8 slots, shared by the whole session; its workers know the servers."""
    os.environ.pop("RAY_ADDRESS", None)
    connect(ClusterSettings(local_cpus=8))
    yield
    ray.shutdown()
