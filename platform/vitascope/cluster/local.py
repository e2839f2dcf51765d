"""Join a Ray cluster, or start a local one."""

import logging
import os
from pathlib import Path

import ray
import ray.data

from vitascope.cluster.settings import ClusterSettings

# What every worker needs to reach the storage, where the driver was given it.
_FORWARDED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the driver of a submitted job


def connect(settings: ClusterSettings) -> None:
    """Connects this process to Ray; nothing happens where it already is.

    Joins `settings.address`, or RAY_ADDRESS, or else starts a cluster on this machine that ends with this
    process and lets in only who holds the user's Ray token.

    Raises:
        ConnectionError: naming the address where no cluster answers.
    """
    if ray.is_initialized():
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        _start(settings.local_cpus)
    _quiet_data()


def _join(address: str) -> None:
    """Joins a cluster; of a client's environment the storage settings go with it to the workers.

    Within a submitted job they are left alone: Ray has already put them together from the job's own.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token" if _has_token() else "disabled")
    forwarded = {} if _IN_A_JOB in os.environ else {k: os.environ[k] for k in _FORWARDED if k in os.environ}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": forwarded} if forwarded else None,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except ConnectionError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} ({error}); check cluster.address and RAY_ADDRESS, "
            "or leave both out to start a local cluster"
        ) from None


def _start(num_cpus: int) -> None:
    """Starts a cluster with `num_cpus` slots on this machine; its workers inherit this environment."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray asks every process without a GPU to choose how CUDA_VISIBLE_DEVICES is set in it; 0 leaves it alone.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        logging_level=logging.WARNING,
        log_to_driver=False,
    )


def _has_token() -> bool:
    """Whether the user holds a Ray token, in one of the three places Ray looks."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def _quiet_data() -> None:
    """Keeps Ray's own reports of progress off the terminal; its log files still have them."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.serve"):
        _only_warnings(logging.getLogger(name))


def _only_warnings(logger: logging.Logger) -> None:
    terminals = [h for h in logger.handlers if type(h) is not logging.FileHandler and hasattr(h, "stream")]
    for handler in terminals:
        handler.setLevel(logging.WARNING)
    if not terminals:
        logger.setLevel(logging.WARNING)
