"""Reaching Ray: quietly, with the user's token, and with what the workers need."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.other_user import needs_root, successes
from processes import ended
from vitascope.cluster import local
from vitascope.cluster.settings import ClusterSettings
from vitascope.errors import Failed

START = """
import logging, os, ray, ray.data
from vitascope.cluster.local import connect
from vitascope.cluster.settings import ClusterSettings
connect(ClusterSettings(local_cpus=4))
connect(ClusterSettings(local_cpus=4))
assert ray.cluster_resources()["CPU"] == 4
assert ray.data.range(8).map(lambda row: row).count() == 8
session = ray._private.worker._global_node.get_session_dir_path()
print(os.environ["RAY_AUTH_MODE"], ray.get_runtime_context().gcs_address, session, flush=True)
logging.getLogger("ray.data").warning("a real warning")
input()
"""

JOIN = """
import os, ray
from vitascope.cluster.local import connect
from vitascope.cluster.settings import ClusterSettings
connect(ClusterSettings())
@ray.remote(num_cpus=0)
def seen():
    return os.environ.get("AWS_ENDPOINT_URL")
print(ray.get(seen.remote()))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user's environment in which nothing is known of any cluster."""
    hidden = ("RAY_", "AWS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(hidden)} | {"HOME": str(home)} | more


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@dataclass
class Started:
    """A process that has started a local cluster, and its output."""

    process: subprocess.Popen
    mode: str
    address: str
    session: Path


@pytest.fixture(scope="module")
def started(home: Path) -> Iterator[Started]:
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        env=environment(home),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    mode, address, session = process.stdout.readline().split()
    yield Started(process, mode, address, Path(session))
    ended(process)


def test_a_local_cluster_asks_for_a_token_that_only_the_user_can_read(started: Started, home: Path) -> None:
    assert started.mode == "token"
    token = home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    joined = subprocess.run(
        [sys.executable, "-c", JOIN],
        env=environment(home, RAY_ADDRESS=started.address, AWS_ENDPOINT_URL="http://storage:1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert joined.stdout.split() == ["http://storage:1"]  # of this client, not of whoever started the cluster
    assert joined.stderr == ""


@needs_root
def test_another_user_can_neither_see_nor_change_what_a_local_cluster_runs(started: Started) -> None:
    assert (started.session / "runtime_resources").is_dir()
    assert successes(started.session, started.session.parent.parent) == []


def test_of_all_that_ray_says_only_warnings_are_heard(started: Started) -> None:
    _, said = started.process.communicate("\n", timeout=600)
    assert len(said.splitlines()) == 1
    assert said.strip().endswith("a real warning")


def test_a_client_shows_its_token_without_a_word(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    use = "import os; from vitascope.cluster import local; local.use_token()"
    code = f"{use}; print(os.environ['RAY_AUTH_MODE'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("token\n", "")


def test_an_address_where_nobody_answers_is_named(home: Path) -> None:
    code = JOIN.replace("ClusterSettings()", "ClusterSettings(address='127.0.0.1:1')")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=False
    )
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("gpus", [0, 1])
def test_work_larger_than_the_local_cluster_is_refused(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(local.ray, "nodes", list)
    local.check_room(ClusterSettings(), "two ranks", cpus=4)
    with pytest.raises(ValueError, match=f"two ranks need 5 CPUs and {gpus} GPUs.*has 4 CPUs and 0 GPUs"):
        local.check_room(ClusterSettings(), "two ranks", cpus=5, gpus=gpus)


def test_work_larger_than_a_joined_cluster_is_said_to_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(local.ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(local.ray, "nodes", list)
    local.check_room(ClusterSettings(address="10.0.0.1:6379"), "two ranks", cpus=2, gpus=2)
    assert "has 4 CPUs and 0 GPUs; waiting for it to grow" in capsys.readouterr().out


def test_a_cluster_that_anybody_can_use_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match=r"RAY_AUTH_MODE is disabled.*cluster\.allow_open=true"):
        local.connect(ClusterSettings())


@pytest.mark.parametrize("home", ["/dev/null/of/nobody", None], ids=["cannot be written", "unset"])
def test_a_local_cluster_needs_no_home(home: str | None) -> None:
    """It then asks for a token of its own, which only this process and its workers know."""
    env = {name: value for name, value in environment(Path()).items() if name != "HOME"}
    code = START + "print(len(os.environ['RAY_AUTH_TOKEN']))\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env | ({"HOME": home} if home else {}),
        input="\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "token"
    assert done.stdout.split()[-1] == "64"
    (line,) = done.stderr.splitlines()
    assert line.endswith("a real warning")


def test_a_machine_too_busy_to_start_ray_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr(local.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(local.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Failed, match="Ray did not start on this machine within 30 s"):
        local.connect(ClusterSettings())
