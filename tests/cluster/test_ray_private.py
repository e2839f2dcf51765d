"""The private parts of Ray that we use: they exist, and behave as we assume."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from ray._private.ray_logging import stdout_deduplicator
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from vitascope.cluster import ray_private


def printed(code: str, **environment: str) -> str:
    """What a process of its own prints, which is on no cluster and has no token but those given."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own |= environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", f"from vitascope.cluster import ray_private\n{code}"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.usefixtures("ray_cluster")
def test_of_a_cluster() -> None:
    assert ray_private.dashboard() is not None
    assert (Path(ray_private.session_folder()) / "logs").is_dir()
    assert ray_private.node_groups() == []  # none grows here


def test_tokens(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert printed("print(ray_private.has_token())", **home) == "False"
    asked = "print(ray_private.has_token(), ray_private.token())"
    assert printed(asked, RAY_AUTH_TOKEN="a" * 64, **home) == f"True {'a' * 64}"
    (tmp_path / "token").write_text("b" * 64)
    assert printed(asked, RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"), **home) == f"True {'b' * 64}"
    changed = (
        "import os\nray_private.has_token()\nos.environ['RAY_AUTH_TOKEN'] = 'c' * 64\n"
        "ray_private.look_for_token_again()\nprint(ray_private.token())"
    )
    assert printed(changed, **home) == "c" * 64
    mode = "import os\nray_private.ask_for_token()\nprint(os.environ['RAY_AUTH_MODE'])"
    assert printed(mode, RAY_AUTH_TOKEN="a" * 64, **home) == "token"


def test_no_other_ray_is_started() -> None:
    code = (
        "import ray\nray_private.start_no_other()\n"
        "try:\n    ray.nodes()\nexcept Exception:\n    print(ray.is_initialized())"
    )
    assert printed(code) == "False"


def test_lines_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdout_deduplicator, "skip_re", None)  # raises if Ray no longer has it
    ray_private.pass_over(lines := re.compile("x"))
    assert stdout_deduplicator.skip_re is lines


def test_the_error_of_a_training_function() -> None:
    raised = KeyError("x")
    assert ray_private.raised_in_train(UserExceptionWithTraceback(raised, traceback_str="")) is raised
    assert ray_private.raised_in_train(raised) is None


def test_a_configuration_of_the_cluster_launcher() -> None:
    config = {
        "cluster_name": "c",
        "max_workers": 1,
        "cluster_synced_files": [],
        "provider": {"type": "local", "head_ip": "h", "worker_ips": []},
        "auth": {"ssh_user": "u"},
    }
    ray_private.check_autoscaler_config(config, filled_in=False)
    with pytest.raises(jsonschema.ValidationError):
        ray_private.check_autoscaler_config(config | {"max_workers": "many"}, filled_in=False)


def test_it_is_the_only_module_with_private_names() -> None:
    package = Path(ray_private.__file__).parents[1]
    private = re.compile(r"ray\._private\.\w+\.|from ray[\w.]*\._\w+[\w.]* import|from ray\._raylet")
    users = [str(p.relative_to(package)) for p in package.rglob("*.py") if private.search(p.read_text())]
    assert users == ["cluster/ray_private.py"]
