"""Join a Ray cluster, or start a local one."""

import contextlib
import logging
import os
import re
import secrets
import socket
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path

import ray
import ray.data

from vitascope import credentials, signals
from vitascope.cluster import ray_private
from vitascope.cluster.private import ray_folder, write_token
from vitascope.cluster.settings import ClusterSettings
from vitascope.errors import Failed, Mistake
from vitascope.progress import say

# Variables of the driver that workers need to reach storage and collector. No credentials: Ray shows and logs
# what it forwards. Nodes have their own, from their role, their profile or their environment.
_FORWARDED = (
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
# A local cluster has more slots than the machine has cores, on purpose.
_MANY_WORKERS = re.compile(r"\d+ PYTHON worker processes have been started")
TOKEN_HINT = (
    "start it with RAY_AUTH_MODE=token (cluster/SECURITY.md), or set cluster.allow_open=true if nobody else "
    "can reach it"
)
AUTH_MODE = "RAY_AUTH_MODE"
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the driver of a submitted job


def connect(settings: ClusterSettings) -> None:
    """Connects this process to Ray; nothing happens if it already is.

    Joins `settings.address`, or RAY_ADDRESS, or else starts a cluster on this machine that ends with this
    process and accepts only holders of the user's Ray token. A worker computes with as many threads as the
    CPUs its task asks for (Ray sets OMP_NUM_THREADS), so two training ranks do not fight for two cores.

    Raises:
        ConnectionError: naming the address if no cluster answers.
    """
    if ray.is_initialized():
        return
    _quiet()
    address = address_of(settings)
    if address:
        _join(address)
        _refuse_open(settings)
    else:
        _start(settings)
    signals.install_again()


def end() -> None:
    """Ends a local Ray, or leaves a cluster, in a process that is about to end.

    Threads and event loops that still wait for Ray fail silently; Ray would have them start another one.
    """
    ray_private.start_no_other()
    threading.excepthook = lambda _: None
    logging.disable()
    ray.shutdown()


def storage_environment() -> dict[str, str]:
    """The storage's address and region in this process's environment, for workers elsewhere. No secrets.

    Raises:
        Mistake: an address holds a password.
    """
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    for name, value in forwarded.items():
        if "@" in value or credentials.in_uri(value):
            raise Mistake(f"{name} holds credentials, and would be shown on the cluster; leave them out")
    return forwarded


def address_of(settings: ClusterSettings) -> str | None:
    """The cluster to join, which may grow; None if a local one is started, which does not."""
    return settings.address or os.environ.get("RAY_ADDRESS")


def check_room(
    settings: ClusterSettings, what: str, *, cpus: float, gpus: float = 0, node_bytes: float = 0
) -> None:
    """Refuses work that would wait for ever, because it is larger than the local cluster.

    A cluster that was joined may grow; then the work waits, and a line reports what for.

    Raises:
        Mistake: naming what is too large, what it needs and what the cluster has.
    """
    resources = ray.cluster_resources()
    has_cpus, has_gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    largest = max((n["Resources"].get("memory", 0.0) for n in ray.nodes() if n["Alive"]), default=0.0)
    if node_bytes > largest:
        lack = f"{what} need {node_bytes / 2**30:.1f} GiB on a node, the largest has {largest / 2**30:.1f}"
    elif cpus > has_cpus or gpus > has_gpus:
        lack = f"{what} need {cpus:g} CPUs and {gpus:g} GPUs at once, "
        lack += f"the cluster has {has_cpus:g} CPUs and {has_gpus:g} GPUs"
    else:
        return
    if not address_of(settings):
        raise Mistake(f"{lack}; ask for less, or raise cluster.local_cpus if CPUs are short")
    say("cluster", f"{lack}; waiting for it to grow")


def _join(address: str) -> None:
    """Joins a cluster; the storage settings of a client's environment go with it to the workers.

    Within a submitted job they are left alone: Ray has already set them from the job's own.
    """
    use_token()
    forwarded = {} if IN_A_JOB in os.environ else storage_environment()
    try:
        _knock(address)
        ray.init(
            address=address,
            runtime_env={"env_vars": forwarded} if forwarded else None,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); check cluster.address and RAY_ADDRESS, "
            "or leave both out to start a local cluster"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError if nothing listens at host:port; Ray itself would retry for ten minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _refuse_open(settings: ClusterSettings) -> None:
    """Leaves a cluster that accepts unauthenticated requests."""
    url = ray_private.dashboard()
    if settings.allow_open or not url or not answers_strangers(f"http://{url}"):
        return
    ray.shutdown()
    raise Mistake(f"this cluster accepts unauthenticated requests; {TOKEN_HINT}")


def answers_strangers(dashboard: str) -> bool:
    """Whether a dashboard shows its cluster's jobs without a token. False if it does not answer."""
    try:
        with urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=15) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):  # refused, among them
        return False


def _start(settings: ClusterSettings) -> None:
    """Starts a cluster with `local_cpus` slots on this machine; its workers inherit this environment.

    Ray turns on its token authentication for it. Its ports are open to the network, and its files to every
    user of the machine: hence no cluster without a token, or outside a private folder.

    Raises:
        Failed: Ray's processes take longer to start than Ray waits.
    """
    if os.environ.get(AUTH_MODE) != "disabled":
        _ask_for_token()
    elif not settings.allow_open:
        raise Mistake(f"RAY_AUTH_MODE is disabled, and Ray's ports are open to the network; {TOKEN_HINT}")
    folder = ray_folder(alone=settings.allow_open)
    try:
        ray.init(
            address="local",
            num_cpus=settings.local_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _temp_dir=str(folder),
        )
    except Exception as error:  # Ray raises no class of its own here
        if "timed out during startup" not in str(error):
            raise
        raise Failed(
            "Ray did not start on this machine within 30 s, which may be busy or short of memory: "
            f"run this again, or look into {folder}/session_latest/logs"
        ) from None


def _ask_for_token() -> None:
    """Makes the local cluster require the user's token, or its own if HOME cannot hold one."""
    if not (_is_given_token() or _keeps_token()):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for this process and the workers it starts
        ray_private.look_for_token_again()
    if AUTH_MODE not in os.environ:
        ray_private.ask_for_token()


def use_token() -> None:
    """Makes Ray's clients in this process present the user's token; Ray does not do so on joining."""
    _hide_token()
    may_have = _is_given_token() or "HOME" in os.environ  # else Ray warns that it cannot look for one
    if may_have and ray_private.has_token() and AUTH_MODE not in os.environ:
        ray_private.ask_for_token()


def _is_given_token() -> bool:
    return bool({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.intersection(os.environ))


def _token_file() -> Path | None:
    """The file of the user's token, as Ray names it; None for a user without a home."""
    home = os.path.expanduser("~")
    return None if home == "~" else Path(home) / ".ray" / "auth_token"


def _keeps_token() -> bool:
    """Whether the user has a token file; makes a missing one, which Ray would leave readable for all."""
    file = _token_file()
    if file is None or "HOME" not in os.environ:  # Ray's C++ part asks the environment alone
        return False
    try:
        if not file.exists():
            write_token(file)
    except OSError:
        return False
    _hide_token()
    ray_private.look_for_token_again()
    return file.is_file() and os.access(file, os.R_OK)


def _hide_token() -> None:
    """Ray leaves the file that it makes readable for everyone on the machine."""
    token = _token_file()
    with contextlib.suppress(OSError):  # another user's, or a folder that cannot be looked into
        if token and token.is_file() and token.stat().st_uid == os.getuid():
            token.chmod(0o600)


def _quiet() -> None:
    """Keeps Ray's own progress report off the terminal, which shows ours; Ray's log files have it."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # wrapped in Ray Data's own, its class would be lost
    for name in ray_private.CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_news)
    # A filter, since importing Serve sets the level again.
    logging.getLogger("ray.serve").addFilter(_is_warning)
    ray_private.pass_over(_MANY_WORKERS)


def _is_news(record: logging.LogRecord) -> bool:
    """Not what Ray Data logs about the error that it raises next."""
    return record.levelno < logging.ERROR or record.module not in ("exceptions", "streaming_executor_state")


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
