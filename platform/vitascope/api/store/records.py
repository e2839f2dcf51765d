"""What the service keeps, as documents."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from vitascope.api.shapes import BatchError, BatchStatus, Counts, Error
from vitascope.generate.request import Request


class Kind(StrEnum):
    """What an object is; its id begins with it."""

    VIDEO = "video"
    IMAGE = "image"
    FILE = "file"
    BATCH = "batch"


class Kept(BaseModel):
    """A document in the store; fields of later releases are skipped."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Object(Kept):
    """What was asked for, and by whom."""

    id: str
    owner: str


class Job(Object):
    """A video or a picture to be made.

    given: the media as the client named them. batch: the batch that it belongs to.
    """

    model: str
    request: Request
    given: dict[str, Any] = {}
    remixed_from: str | None = None
    user: str | None = None
    batch: str | None = None


class StoredFile(Object):
    """An uploaded file, or the results of a batch; its content is in the folder of its media."""

    filename: str
    purpose: str
    n_bytes: int


class BatchJob(Object):
    """A file of requests to be worked off."""

    endpoint: str
    input_file_id: str
    completion_window: str
    metadata: dict[str, str] | None = None


class Outcome(Kept):
    """How a job ended, with the file that it made or the reason why not."""

    at: int
    uri: str | None = None
    error: Error | None = None


class Progress(Kept):
    """A pending object: when the runner began it."""

    started_at: int | None = None


class BatchProgress(Kept):
    """How far a batch is; written by the runner alone."""

    status: BatchStatus = "validating"
    counts: Counts = Counts()
    errors: list[BatchError] = []
    times: dict[str, int] = {}
    output_file_id: str | None = None
    error_file_id: str | None = None
