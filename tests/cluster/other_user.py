"""Another user of this machine, who tries to get at ours."""

import os
import subprocess
from pathlib import Path

import pytest

OTHER = 65534
"""The uid of `nobody`."""

needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="NOT TRIED as another user: only root can become one; run the tests as root too"
)

# Prints every attempt that succeeds. $1 is Ray's session, $2 the folder above it all.
_ATTEMPTS = """
try() { "$@" >/dev/null 2>&1 && echo "$*"; }
try ls "$2"
try ls "$1"
try ls "$1/runtime_resources"
try cat "$1/logs/raylet.out"
try touch "$1/runtime_resources/added"
try touch "$1/logs/added"
try mkdir "$1/runtime_resources/working_dir_files"
try mv "$1/runtime_resources" "$1/moved"
try mv "$1" "$1.moved"
try rm -r "$1"
try ln -s /tmp "$2/link"
try mv "$2" "$2.moved"
try chmod 777 "$2"
exit 0
"""


def attempts(session: Path, above: Path) -> list[str]:
    """A command that tries, as another user, to get at a session of Ray and prints what worked."""
    become = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", "--"]
    return [*become, "sh", "-c", _ATTEMPTS, "sh", str(session), str(above)]


def successes(session: Path, above: Path) -> list[str]:
    """What another user can do with a session of Ray on this host."""
    done = subprocess.run(attempts(session, above), capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.splitlines()
