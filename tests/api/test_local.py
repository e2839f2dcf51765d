"""`vitascope serve` and `vitascope keys`."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from api.conftest import Served, finished
from api.in_process import App
from hosts.namespaces import wait_until
from processes import ended
from vitascope import cli, config
from vitascope.api import local
from vitascope.config import Settings
from vitascope.errors import Mistake


def test_keys_by_command(
    settings_in: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_in(tmp_path / "run")
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))

    def said(action: str, *more: str) -> str:
        status = cli.main(["keys", action, str(tmp_path / "settings.toml"), *more])
        told = capsys.readouterr()
        return f"{status} {told.out}{told.err}"

    assert said("list").startswith("0 no keys")
    key = said("add", "--name", "alice", "--in-flight", "3").split()[1]
    assert re.fullmatch("vsk_alice_[0-9a-f]{64}", key)
    kept = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json"))
    assert key.rpartition("_")[2] not in kept
    assert "there is a key named 'alice'" in said("add", "--name", "alice")
    assert "admin" in said("add", "--name", "admin")
    assert "takes --name" in said("add")
    assert "in_flight 3" in said("list")
    assert "revoked" in said("revoke", "--name", "alice")
    assert "no key is named" in said("revoke", "--name", "../alice")


def test_a_taken_port_is_named(settings_in: Callable[..., Settings], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(Mistake, match=f"nothing can listen on 127.0.0.1:{port}"):
            local.run(settings_in(tmp_path, f"serve.port={port}"))


@pytest.mark.nightly
def test_a_service_that_is_stopped_continues_at_its_next_start(
    settings_in: Callable[..., Settings], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = settings_in(tmp_path / "run", f"serve.port={port}")
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    served = Served(settings, f"http://127.0.0.1:{port}", App())
    client, ids = served.client("alice"), []

    def started() -> subprocess.Popen:
        command = [sys.executable, "-m", "vitascope.cli", "serve", str(tmp_path / "settings.toml")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        wait_until(lambda: process.poll() is not None or answers(), 300, "the service")
        assert process.poll() is None
        return process

    def answers() -> bool:
        try:
            return httpx.get(f"{served.url}/health").status_code == 200
        except httpx.HTTPError:
            return False

    for end in (signal.SIGTERM, signal.SIGINT):
        process = started()
        assert all(finished(client, of, 300).status == "completed" for of in ids)
        ids += [client.videos.create(prompt=f"cat {i}", extra_body={"steps": 200}).id for i in range(3)]
        process.send_signal(end)
        assert process.wait(120) == {signal.SIGTERM: 3, signal.SIGINT: 130}[end]
        assert not answers()
    process = started()
    assert {finished(client, of, 300).status for of in ids} == {"completed"}
    ended(process)
