"""The flow as jobs, one stage after another.

It runs as a job itself, on the head, independent of the machine that submitted it.
"""

import time

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from vitascope.cluster import jobs, ray_private
from vitascope.cluster.local import connect
from vitascope.config import Settings
from vitascope.errors import INCOMPLETE, MISTAKE, STOPPED, Failed
from vitascope.progress import say
from vitascope.stages import runner
from vitascope.stages.registry import Summary

_TRIES = 3  # of a stage whose job dies; its committed outputs stay
_LOOK_S = 2.0
_FINAL = (MISTAKE, STOPPED)  # exit statuses for which another try does not help


def run(settings: Settings, start: str | None = None) -> Summary:
    """Submits every unfinished stage in turn to the cluster of this process, and waits for each.

    If a stage's job dies it is submitted again, and continues after what it had committed. A request to stop
    this job is forwarded to the running one. Returns the seconds of each stage, and whether all are complete.

    Raises:
        Failed: a stage has failed for good; the log of its job says why.
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
    """Whether the stage is complete."""
    for tries_left in reversed(range(_TRIES)):
        submission_id = jobs.submit(client, submission)
        say(submission.command, f"job {submission_id}")
        details = _wait(client, submission_id)
        if details.status == JobStatus.SUCCEEDED or details.driver_exit_code == INCOMPLETE:
            return details.status == JobStatus.SUCCEEDED
        outcome = f"job {submission_id} ended as {details.status}{_why(details)}"
        final = details.status == JobStatus.STOPPED or details.driver_exit_code in _FINAL
        if final or not tries_left:
            raise Failed(f"{outcome}\n  its log: vitascope jobs logs {submission_id}")
        say(submission.command, f"{outcome}; trying again")
    raise AssertionError("the last try returns or raises")


def _why(details: JobDetails) -> str:
    """Why a job failed; its own message is in its log, which has been shown."""
    if details.driver_exit_code is not None:
        return f" with exit status {details.driver_exit_code}"
    last = (details.message or "").strip().splitlines()[-1:]
    return f": {last[0]}" if last else ""


def _wait(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Follows a job to its end and returns its details; if this process has to stop, it stops the job."""
    try:
        return jobs.follow(client, submission_id, lambda text: print(text, end="", flush=True))
    except BaseException:
        client.stop_job(submission_id)
        while not client.get_job_info(submission_id).status.is_terminal():
            time.sleep(_LOOK_S)
        raise
