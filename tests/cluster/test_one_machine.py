"""The recipe for one machine in cluster/README.md, run word for word."""

import os
import sys
from pathlib import Path

import pytest

from hosts.namespaces import Host, needs_hosts

README = Path(__file__).resolve().parents[2] / "cluster" / "README.md"
MIB = 2**20
STRANGER = "setpriv --reuid=65534 --regid=65534 --clear-groups"


def commands(title: str) -> list[str]:
    """The indented lines of a section, without their comments."""
    section = README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line.partition("   #")[0].strip() for line in section.splitlines() if line.startswith("    ")]


@needs_hosts
@pytest.mark.nightly
def test_the_recipe_starts_a_head_that_only_its_user_reaches_and_leaves_nothing(tmp_path: Path) -> None:
    bin_ = Path(sys.executable).parent
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    env = kept | {"HOME": str(tmp_path / "home"), "PATH": f"{bin_}:{os.environ['PATH']}"}
    (tmp_path / "home").mkdir()
    token = next(line for line in commands("Before you start") if "get-auth-token" in line)
    start, head, submit, stop = commands("One machine")
    assert submit.startswith("vitascope submit flow")
    script = [
        *("set -ex", token, start, f"{head} --object-store-memory={200 * MIB}"),
        "until vitascope jobs list; do sleep 1; done",
        "ls $RAY_TMPDIR/ray/session_latest/runtime_resources",
        f"! {STRANGER} ls $RAY_TMPDIR",
        f"! {STRANGER} cat ~/.ray/auth_token",
        *("echo $RAY_TMPDIR > ~/temporary", stop),
    ]
    host = Host("one", tmp_path / "host", env=env, addresses={"one": "127.0.0.1"}, shm_bytes=600 * MIB)
    try:
        said = host.run(["bash", "-c", "\n".join(script)], timeout_s=900)
    finally:
        host.kill()
    assert "id  status" in said.stdout
    assert not Path((tmp_path / "home" / "temporary").read_text().strip()).exists()
