"""The private parts of Ray that we use.

Ray does not promise to keep them. tests/cluster/test_ray_private.py tests them: look there first when Ray is
upgraded.
"""

import re
import sys
from typing import TYPE_CHECKING, Any

import ray
from ray._private import auto_init_hook
from ray._private.authentication.authentication_token_setup import _enable_token_auth
from ray._private.ray_logging import stdout_deduplicator
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

if TYPE_CHECKING:  # importing it takes longer than all of this module
    from ray.job_submission import JobSubmissionClient

CHATTY = ("ray._private.authentication", "ray.data._internal.progress")
"""Loggers that warn of what is chosen on purpose."""


def dashboard() -> str | None:
    """host:port of the dashboard of this process's cluster; None or empty if it has none."""
    url: str | None = ray._private.worker.get_dashboard_url()
    return url


def session_folder() -> str:
    """The folder of Ray's files on this node."""
    return str(ray._private.worker.global_worker.node.get_session_dir_path())


def node_groups() -> list[Any]:
    """The node groups that the autoscaler may add, each with name, resources and max_count; maybe none."""
    config = ray._private.state.state.get_cluster_config()
    return list(config.node_group_configs) if config else []


def python_of_the_head(client: "JobSubmissionClient") -> str | None:
    """The Python that runs Ray on the head, as its dashboard reports it; None if it does not yet."""
    option = "--python_worker_command="
    nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
    heads = [node for node in nodes if node["raylet"].get("isHeadNode")]
    words = (word for head in heads for word in head.get("cmdline") or ())
    return next((word.removeprefix(option).split()[0] for word in words if word.startswith(option)), None)


def ask_for_token() -> None:
    """Turns on token authentication in this process; Ray sometimes does so itself, with a warning."""
    _enable_token_auth()


def has_token() -> bool:
    """Whether the environment or the user's file holds a token for a cluster."""
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def token() -> str | None:
    """That token; None if neither holds one."""
    raw: str | None = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
    return raw


def look_for_token_again() -> None:
    """Makes Ray read the token again, after it has been replaced."""
    AuthenticationTokenLoader.instance().reset_cache()


def start_no_other() -> None:
    """Makes calls that need Ray fail once it has ended; they would start another one."""
    auto_init_hook.enable_auto_connect = False


def pass_over(lines: re.Pattern[str]) -> None:
    """Keeps matching lines of Ray's off the terminal."""
    stdout_deduplicator.skip_re = lines


def raised_in_train(error: BaseException) -> BaseException | None:
    """The error that a training function raised, if `error` is Ray Train's about it.

    Ray Train is not imported for it: without a home folder it cannot be.
    """
    exceptions = sys.modules.get("ray.train.v2._internal.exceptions")
    wrapper = getattr(exceptions, "UserExceptionWithTraceback", ())
    return error._base_exc if isinstance(error, wrapper) else None


def check_autoscaler_config(config: dict[str, Any], *, filled_in: bool) -> None:
    """Makes Ray's cluster launcher check a configuration, before or after its defaults are filled in.

    Raises:
        jsonschema.ValidationError, ValueError, RuntimeError, AssertionError, KeyError, NotImplementedError,
            click.ClickException: it is refused.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config) if filled_in else config)
