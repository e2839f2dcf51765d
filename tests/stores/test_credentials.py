"""The keys that requests are signed with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stores.faulty import FaultyProxy

CODE = """
import sys
from vitascope import storage
location = sys.argv[1] + "/in/a b"
storage.put(location, b"content")
assert storage.create(location, b"other") is False
assert storage.read_bytes(location) == b"content"
assert storage.list_files(sys.argv[1]) == [location]
"""
KEYS = "aws_access_key_id = {0}-key\naws_secret_access_key = {0}-secret\n"


@pytest.mark.parametrize("variable", ["AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"])
def test_a_profile_gives_the_keys(variable: str, proxy: FaultyProxy, s3: str, tmp_path: Path) -> None:
    """The profile's, and not the default ones, with none in the environment."""
    lab = "[profile lab]" if variable == "AWS_CONFIG_FILE" else "[lab]"
    (tmp_path / "keys").write_text(f"[default]\n{KEYS.format('default')}{lab}\n{KEYS.format('lab')}")
    files = dict.fromkeys(("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"), str(tmp_path / "none"))
    environment = {name: value for name, value in os.environ.items() if "ACCESS_KEY" not in name}
    environment |= files | {variable: str(tmp_path / "keys"), "AWS_PROFILE": "lab"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", CODE, s3], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert proxy.keys == {"lab-key"}
