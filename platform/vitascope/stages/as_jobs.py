"""The flow as jobs, one stage after another.

Runs as a job itself, on the head, so that it does not depend on whoever submitted it.
"""

import time
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from vitascope.cluster import jobs, ray_private
from vitascope.cluster.local import connect
from vitascope.config import Settings
from vitascope.errors import INCOMPLETE, MISTAKE, STOPPED, Failed
from vitascope.progress import say
from vitascope.stages import runner

_TRIES = 3  # of a stage whose job dies; what it has committed stays
_LOOK_S = 2.0
_FINAL = (MISTAKE, STOPPED)  # exit statuses after which trying again does not help


def run(settings: Settings, start: str | None = None) -> dict[str, Any]:
    """Submits every unfinished stage in turn to the cluster that this process is on, and waits for each.

    A stage's job that dies is submitted again, and goes on with what it had committed. A request to stop
    this job is passed on to the one that runs. Returns the stages done, and how long each took.

    Raises:
        Failed: if a stage has failed for good; the job's own log says why.
    """
    connect(settings.cluster)
    client = jobs.client_of(ray_private.dashboard(), allow_open=settings.cluster.allow_open)
    seconds: dict[str, float] = {}

    def execute(stage: str) -> bool:
        started = time.monotonic()
        complete = _run_stage(client, jobs.Submission(stage, settings))
        seconds[stage] = round(time.monotonic() - started, 1)
        say(stage, f"done in {seconds[stage]:.0f} s")
        return complete

    left = runner.run(settings, execute, start)
    return {"seconds_by_stage": seconds, "succeeded": not left}


def _run_stage(client: JobSubmissionClient, submission: jobs.Submission) -> bool:
    """Whether the stage did all that was asked of it."""
    for tries_left in reversed(range(_TRIES)):
        submission_id = jobs.submit(client, submission)
        say(submission.command, f"job {submission_id}")
        details = _wait(client, submission_id)
        if details.status == JobStatus.SUCCEEDED or details.driver_exit_code == INCOMPLETE:
            return details.status == JobStatus.SUCCEEDED
        said = f"job {submission_id} ended as {details.status}{_why(details)}"
        final = details.status == JobStatus.STOPPED or details.driver_exit_code in _FINAL
        if final or not tries_left:
            raise Failed(f"{said}\n  its log: vitascope jobs logs {submission_id}")
        say(submission.command, f"{said}; trying again")
    raise AssertionError("the last try returns or raises")


def _why(details: JobDetails) -> str:
    """Why a job failed; its own message is in its log, which has been shown."""
    if details.driver_exit_code is not None:
        return f" with exit status {details.driver_exit_code}"
    last = (details.message or "").strip().splitlines()[-1:]
    return f": {last[0]}" if last else ""


def _wait(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Follows a job to its end and gives what became of it; if this process is to stop, so is the job."""
    try:
        return jobs.follow(client, submission_id, lambda text: print(text, end="", flush=True))
    except BaseException:
        client.stop_job(submission_id)
        while not client.get_job_info(submission_id).status.is_terminal():
            time.sleep(_LOOK_S)
        raise
