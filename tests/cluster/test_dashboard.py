"""Ray's own dashboard in a browser, with a run on it."""

import json
import re
import sys
from pathlib import Path

import pytest

from cluster.conftest import Head
from hosts.namespaces import needs_hosts
from synthetic import make_run
from vitascope import config

pytestmark = [pytest.mark.nightly, needs_hosts]
ADDRESS = "http://127.0.0.1:8265"


def seen(head: Head, folder: Path, pages: dict[str, tuple[str, str]], *token: str) -> dict[str, str]:
    """The text of each page."""
    (folder / "pages.json").write_text(json.dumps(pages))
    script = str(Path(__file__).with_name("browse.py"))
    command = f"exec {sys.executable} {script} {ADDRESS} {folder} {' '.join(token)} < {folder}/pages.json"
    said = head.host.run(["bash", "-c", command], HOME=str(folder)).stdout
    return json.loads(said.splitlines()[-1])


def test_a_person_sees_the_run_and_a_stranger_a_locked_door(head: Head, tmp_path: Path) -> None:
    settings = make_run(str(tmp_path / "run"), ["train.steps=10", "train.ranks=1"])
    (tmp_path / "settings.toml").write_text(config.to_toml(settings))
    status, said = head.done("submit", "train", str(tmp_path / "settings.toml"), "--address", ADDRESS)
    assert status == 0, said
    job = re.search(r"job (train-run-\w+)", said)[1]

    token = (head.folder / "token").read_text()
    pages = {
        "jobs": ("#/jobs", job),
        "job": (f"#/jobs/{job}", "tokens/s"),
        "nodes": ("#/cluster", "ALIVE"),
    }
    inside = seen(head, tmp_path, pages, token)
    assert inside["errors"] == []
    assert "SUCCEEDED" in inside["jobs"].partition(job)[2]
    assert "vitascope.cli train" in inside["job"]
    assert '"command": "train"' in inside["job"]
    assert re.search(r"train +10 in .* tokens/s", inside["job"])  # the end of its log
    assert "ALIVE" in inside["nodes"]

    outside = seen(head, tmp_path, {"stranger": ("#/jobs", "oken")})
    assert job not in outside["stranger"]
    assert "token" in outside["stranger"].lower()
