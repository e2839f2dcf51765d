"""The flow as jobs: which of them are tried again."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from vitascope import config
from vitascope.cluster import jobs
from vitascope.errors import Failed
from vitascope.stages import as_jobs


@pytest.mark.parametrize(
    ("status", "exit_code", "n_submitted"),
    [
        (JobStatus.FAILED, 1, 3),
        (JobStatus.FAILED, None, 3),  # its node died
        (JobStatus.FAILED, 2, 1),
        (JobStatus.FAILED, 3, 1),
        (JobStatus.STOPPED, None, 1),
    ],
)
def test_a_stage_is_tried_again_unless_that_cannot_help(
    monkeypatch: pytest.MonkeyPatch, status: JobStatus, exit_code: int | None, n_submitted: int
) -> None:
    submitted = ended_as(monkeypatch, status, exit_code)
    with pytest.raises(Failed, match=r"job train-\d ended as .*\n  its log: vitascope jobs logs train-\d"):
        as_jobs._run_stage(None, jobs.Submission("train", config.load(None)))
    assert len(submitted) == n_submitted


@pytest.mark.parametrize(
    ("status", "exit_code", "complete"), [(JobStatus.SUCCEEDED, 0, True), (JobStatus.FAILED, 4, False)]
)
def test_a_stage_that_ends_is_complete_or_not(
    monkeypatch: pytest.MonkeyPatch, status: JobStatus, exit_code: int, complete: bool
) -> None:
    submitted = ended_as(monkeypatch, status, exit_code)
    done = as_jobs._run_stage(None, jobs.Submission("generate", config.load(None)))
    assert (done, len(submitted)) == (complete, 1)


def ended_as(monkeypatch: pytest.MonkeyPatch, status: JobStatus, exit_code: int | None) -> list[str]:
    """Makes every job end so, and collects the submitted ones."""
    submitted: list[str] = []

    def submit(_: Any, submission: jobs.Submission) -> str:
        submitted.append(submission.command)
        return f"{submission.command}-{len(submitted)}"

    details = SimpleNamespace(status=status, driver_exit_code=exit_code, message="")
    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(jobs, "follow", lambda *_: details)
    return submitted
