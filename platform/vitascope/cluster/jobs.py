"""Jobs on a cluster: submit, follow, list, stop.

Through Ray's job API; what a job needs travels with it: this package and the settings, resolved. The name of
a submission follows from what is submitted, so that submitting the same again while it runs joins it.
"""

import asyncio
import getpass
import ipaddress
import json
import logging
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import vitascope
from vitascope import config, credentials
from vitascope.cluster import ray_private
from vitascope.cluster.local import IN_A_JOB, TOKEN_HINT, answers_strangers, storage_environment, use_token
from vitascope.cluster.placement import entrypoint_resources
from vitascope.config import Settings
from vitascope.errors import Failed, Mistake
from vitascope.progress import say
from vitascope.records import stable_id
from vitascope.wording import short

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_HEAD_SAYS_S = 60.0  # nodes report to the dashboard every few seconds
_RECONNECT_S = 1.0
_QUIET_S = 60.0  # then the job is asked for: a connection may be dead without either end knowing
_GIVE_UP_S = 900.0  # a head that does not come back in a quarter of an hour has lost its jobs


Show = Callable[[str], Any]
"""Takes a piece of a job's log."""


class Refused(Mistake):
    """The cluster refuses a request; the text says why and what to do."""


@dataclass(frozen=True)
class Submission:
    """A command of `vitascope`, with settings, to be run as a job. `more`: further words of the command."""

    command: str
    settings: Settings
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The same for the same command and settings; readable."""
        run = re.sub(r"[^A-Za-z0-9_-]+", "-", self.settings.run.folder.rstrip("/").rpartition("/")[2])[:40]
        return f"{self.command}-{run}-{stable_id(*self.more, config.to_toml(self.settings))[:8]}"

    def entrypoint(self, python: str) -> str:
        """The shell's command; Python replaces the shell, so that a request to stop reaches it."""
        return shlex.join(["exec", python, "-m", "vitascope.cli", self.command, "settings.toml", *self.more])


def client_of(address: str | None, *, allow_open: bool = False) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at `address`, or RAY_API_SERVER_ADDRESS, or on this machine.

    Raises:
        ConnectionError: no cluster answers.
        Refused: the cluster requires another token, or accepts unauthenticated requests.
    """
    address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS).rstrip("/")
    if what := credentials.in_uri(address):
        raise Mistake(f"the cluster's address holds {what}; leave it out, and set RAY_AUTH_TOKEN_PATH")
    if "://" not in address:
        address = f"http://{address}"
    _refuse_open(address, allow_open=allow_open)
    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets it and RAY_ADDRESS overrule the argument
    try:
        use_token()
        client = JobSubmissionClient(address)
        client.list_jobs()
    except (RuntimeError, ConnectionError, ValueError, AuthenticationError) as error:
        raise _explained(address, error) from None
    return client


def _refuse_open(address: str, *, allow_open: bool) -> None:
    """Refuses an open cluster elsewhere, on which anyone can run anything; warns of one on this machine."""
    if allow_open or not answers_strangers(address):
        return
    warning = f"the cluster at {address} accepts unauthenticated requests; {TOKEN_HINT}"
    if not _is_loopback(urlsplit(address).hostname or ""):
        raise Refused(warning)
    say("cluster", warning)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _explained(address: str, error: Exception) -> Exception:
    if re.search(r"status code 40[13]\b|[Uu]nauth|[Tt]oken", str(error)):
        return Refused(
            f"the cluster at {address} does not accept your token; put the cluster's own into "
            "~/.ray/auth_token (mode 600), or its path into RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token"
        )
    return ConnectionError(
        f"no Ray dashboard answers at {address} ({str(error).splitlines()[0]}); check --address, and that "
        "the tunnel to the head is open (`ray dashboard cluster.yaml`, `kubectl port-forward`)"
    )


def submit(client: JobSubmissionClient, submission: Submission) -> str:
    """Submits, unless the same submission is waiting or running, and returns the submission's id.

    Raises:
        Failed: the cluster cannot take a job at present.
    """
    submission_id, is_running = choose_id(submission.name, _statuses(client))
    if is_running:
        return submission_id
    with TemporaryDirectory() as folder:
        (Path(folder) / "settings.toml").write_text(config.to_toml(submission.settings))
        try:
            return client.submit_job(
                entrypoint=submission.entrypoint(_python(client)),
                submission_id=submission_id,
                runtime_env=_runtime_env(folder, submission.settings),
                metadata=_metadata(submission),
                **entrypoint_resources(submission.command, submission.settings),
            )
        except RuntimeError as error:
            if submission_id in _statuses(client):  # submitted by somebody else in the meantime
                return submission_id
            if "status code 5" not in str(error):
                raise
            why = short(str(error).splitlines()[0], 300)
            raise Failed(f"the cluster takes no job at present: {why}; run this again") from None


def choose_id(name: str, statuses: Mapping[str, JobStatus]) -> tuple[str, bool]:
    """The id of a submission, and whether it already waits or runs; `-2` follows a finished one."""
    attempt, chosen = 1, name
    while chosen in statuses and statuses[chosen].is_terminal():
        attempt += 1
        chosen = f"{name}-{attempt}"
    return chosen, chosen in statuses


def _statuses(client: JobSubmissionClient) -> dict[str, JobStatus]:
    return {job.submission_id: job.status for job in client.list_jobs() if job.submission_id}


def _runtime_env(folder: str, settings: Settings) -> dict[str, Any]:
    """Holds no secret: Ray shows it to everyone who may see the job."""
    return {
        "working_dir": folder,
        "py_modules": [str(Path(vitascope.__file__).parent)],
        "excludes": ["__pycache__", "files/*/"],  # no stage reads these; in a checkout they are your folders
        "env_vars": storage_environment() | {"RAY_JOB_STOP_WAIT_TIME_S": str(settings.cluster.stop_wait_s)},
    }


def _python(client: JobSubmissionClient) -> str:
    """The Python that runs Ray on the head: a job's own PATH may lead to one without Ray.

    Waits for a head that has just started and does not report it yet.

    Raises:
        ConnectionError: the head does not report it in time.
    """
    deadline = time.monotonic() + _HEAD_SAYS_S
    while not (python := ray_private.python_of_the_head(client)):
        if time.monotonic() > deadline:
            raise ConnectionError(
                f"for {_HEAD_SAYS_S:g} s the head has not reported which Python runs Ray on it; look into "
                "dashboard_agent.log there"
            )
        time.sleep(0.5)
    return python


def _metadata(submission: Submission) -> dict[str, str]:
    """Who submitted what; a job that another job submits belongs to that job's submitter."""
    own = json.loads(os.environ.get(IN_A_JOB, "{}")).get("metadata", {})
    return {
        "command": submission.command,
        "run": submission.settings.run.folder,
        "user": own.get("user") or _user(),
        "git_revision": own.get("git_revision") or _revision(),
    }


def _user() -> str:
    """The user who runs this process; a number if the system has no name for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        return f"uid {os.getuid()}"


def _revision() -> str:
    """The package's commit, with a + if files were changed since; empty if there is no repository."""
    git = ["git", "-C", str(Path(vitascope.__file__).parent), "describe", "--always", "--exclude=*"]
    try:
        done = subprocess.run([*git, "--dirty=+", "--abbrev=12"], capture_output=True, text=True, check=False)
    except OSError:  # no git
        return ""
    return done.stdout.strip()


def follow(client: JobSubmissionClient, submission_id: str, show: Show) -> JobDetails:
    """Shows a job's log from its first line until the job ends, and returns the outcome.

    If the connection drops, it reconnects, and the log continues at the same point.

    Raises:
        Refused: the job does not exist.
        ConnectionError: the cluster has not answered for a quarter of an hour; the job may go on.
    """
    shown, answered = 0, time.monotonic()

    def show_new(text: str, start: int) -> None:
        """`text` begins `start` characters into the log."""
        nonlocal shown
        if new := text[max(0, shown - start) :]:
            show(new)
            shown += len(new)

    while True:
        try:
            details = _details(client, submission_id)
            if details.status.is_terminal():
                with suppress(RuntimeError):  # the log lies on the driver's node, which may be gone
                    show_new(client.get_job_logs(submission_id), 0)
                return details
            answered = time.monotonic()
            asyncio.run(_tail(client, submission_id, show_new))
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            if time.monotonic() - answered > _GIVE_UP_S:
                raise ConnectionError(
                    f"the cluster no longer answers ({error}); "
                    f"once it does: vitascope jobs logs {submission_id}"
                ) from None
        time.sleep(_RECONNECT_S)


async def _tail(client: JobSubmissionClient, submission_id: str, show: Callable[[str, int], None]) -> None:
    """Shows the pieces of the log, each with its offset, while the connection lasts and the job runs.

    A quiet connection is kept: Ray's head does not notice an abandoned one, and has a limited number.
    """
    pieces, start = client.tail_job_logs(submission_id), 0
    while True:
        piece = asyncio.ensure_future(anext(pieces))
        while not (await asyncio.wait({piece}, timeout=_QUIET_S))[0]:
            if (await asyncio.to_thread(_details, client, submission_id)).status.is_terminal():
                piece.cancel()
                return
        try:
            text = piece.result()
        except StopAsyncIteration:
            return
        show(text, start)
        start += len(text)


def _details(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        raise Refused(f"no job {submission_id!r} on this cluster; `vitascope jobs list` names them") from None


def stop(client: JobSubmissionClient, submission_id: str) -> bool:
    """Asks a job to stop so that it can be continued: training checkpoints first. False if it has ended."""
    _details(client, submission_id)
    return bool(client.stop_job(submission_id))


def table(jobs: list[JobDetails]) -> list[str]:
    """A line for every submitted job, the newest last."""
    rows = [("id", "status", "user", "submitted", "run")]
    for job in sorted((j for j in jobs if j.submission_id), key=lambda j: j.start_time or 0):
        user, run = ((job.metadata or {}).get(key, "") for key in ("user", "run"))
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime((job.start_time or 0) / 1000))
        rows.append((str(job.submission_id), job.status.value, user, when, run))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
