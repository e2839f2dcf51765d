"""Fixtures that all tests share: one local Ray cluster, one S3 server, and the markers' meaning."""

import functools
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
import ray
import s3fs
from filelock import FileLock

from hosts import namespaces
from hosts.namespaces import wait_until
from in_process import stand_in
from processes import ended
from vitascope.cluster.local import connect
from vitascope.cluster.settings import ClusterSettings
from vitascope.errors import Failed

if TYPE_CHECKING:
    from flow.finished import Flow

REPO = Path(__file__).resolve().parents[1]
MOTO = REPO / ".venv-moto" / "bin" / "moto_server"
IN_PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
"""Whether other processes run tests, too."""

SCHEDULED = os.sched_getscheduler(0)
"""The system's scheduling of this process at its start."""
OWN_RAY = ("cluster/", "hosts/", "test_signals.py", "generate/test_tracing.py", "api/test_local.py")
"""Tests that start a Ray of their own."""
SHARED_RAY = re.compile(r"\b(ray_cluster|flow: Flow)\b")
"""What files contain whose tests need the Ray of the session."""
SLOWEST = (
    "flow/test_flow.py",
    "generate/test_stage.py",
    "train/test_stage.py",
    "encode/test_stage.py",
    "cluster/",
    "test_signals.py",
    "hosts/",
    "stores/",
    "media/",
    "clips/",
    "deploy/",
)
"""The slowest tests come first, so that they are not what `make test` waits for at the end."""

LATE = "report/"
"""These read the finished flow, which another process makes meanwhile."""

QUICK_RAY = {
    "RAY_metrics_report_interval_ms": "2000",  # by default 10 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # by default 2 s; how soon a report or an end is noticed
}


def pytest_configure() -> None:
    """Before anything starts: processes keep the environment they start with."""
    os.environ.update(QUICK_RAY)
    if IN_PARALLEL:
        import torch

        torch.set_num_threads(1)  # others compute at the same time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of a file in one process, and all that start Ray: two of them would be late."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if _starts_ray(file) else file

    return ByFile(config, log)


@functools.cache
def _starts_ray(file: str) -> bool:
    of_its_own = file.removeprefix("tests/").startswith(OWN_RAY)
    return of_its_own or SHARED_RAY.search((REPO / file).read_text()) is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips nightly tests unless requested, and GPU tests, unless a GPU was promised: then they fail."""
    if "nightly" not in (config.option.markexpr or ""):
        nightly = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    items.sort(key=lambda item: _rank(item.path))
    if any(item.get_closest_marker("gpu") for item in items):
        _mark_gpu_tests([item for item in items if item.get_closest_marker("gpu")])


def _rank(path: Path) -> int:
    """How early a file's tests run."""
    name = path.relative_to(REPO / "tests").as_posix()
    if name.startswith(LATE):
        return len(SLOWEST) + 1
    return next((n for n, prefix in enumerate(SLOWEST) if name.startswith(prefix)), len(SLOWEST))


def _mark_gpu_tests(items: list[pytest.Item]) -> None:
    import torch

    if torch.cuda.is_available() or os.environ.get("VITASCOPE_EXPECT_GPU") == "1":
        return  # if a GPU was promised and is missing, they run and fail
    for item in items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Reports loudly what a machine without a GPU, or without private hosts, left untested."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    no_gpu = "no CUDA device here (VITASCOPE_EXPECT_GPU=1 makes them fail instead)"
    for part, what, why in (
        ("CUDA device", "GPU tests", no_gpu),
        (namespaces.SKIPPED, "tests on private hosts", namespaces.missing()),
    ):
        if n := sum(part in reason for reason in reasons):
            terminalreporter.write_line(f"{n} {what} were SKIPPED: {why}", yellow=True)


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
    for attempt in (1, 2, 3):  # Ray gives itself 30 s to start, which a busy machine may miss
        try:
            connect(ClusterSettings(local_cpus=8))
            break
        except Failed:
            ray.shutdown()
            if attempt == 3:
                raise
    yield
    ray.shutdown()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages do Ray's part in this process, without a cluster."""
    stand_in(monkeypatch)


@pytest.fixture(scope="session", params=["s3", pytest.param("gs", marks=pytest.mark.nightly)])
def flow(
    request: pytest.FixtureRequest,
    ray_cluster: None,  # noqa: ARG001
    new_bucket: Callable[[], str],
    new_google_bucket: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> "Flow":
    """The finished flow in a bucket; what looks at it leaves it unchanged, or takes a copy (`saved_flow`)."""
    from flow.finished import finished

    bucket = new_bucket() if request.param == "s3" else new_google_bucket()
    flow = finished(bucket, tmp_path_factory.mktemp("flow"))
    if not (saved := _saved_flow(tmp_path_factory)).exists():
        flow.save(saved)
    return flow


def _saved_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of `make test` know."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if IN_PARALLEL else own) / "saved_flow"


@pytest.fixture(scope="session")
def saved_flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the finished flow in a local folder, for `flow.finished.copied`.

    If the tests of the flow run too, they come from the process that runs these, the one with Ray.
    """
    from flow.finished import finished

    folder = _saved_flow(tmp_path_factory)
    is_tested = any("flow" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if IN_PARALLEL and is_tested and not ray.is_initialized():
        with suppress(TimeoutError):  # after that it is made here, and fails as it did there
            wait_until(folder.exists, 600, "the files of the finished flow")
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            request.getfixturevalue("ray_cluster")
            bucket = request.getfixturevalue("new_bucket")()
            finished(bucket, tmp_path_factory.mktemp("flow")).save(folder)
    return folder
