"""The objects that clients see."""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

Status = Literal["queued", "in_progress", "completed", "failed"]


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "cancelling", "cancelled"
]


class _Named(BaseModel):
    id: str


class Error(BaseModel):
    """Why a request was refused or a job failed."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: Error


class Video(_Named):
    """A video: being made, finished or failed."""

    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    error: Error | None = None
    prompt: str
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    settings: dict[str, Any] = Field(description="The request's other fields, with defaults filled in.")
    url: str | None = Field(None, description="Of a finished video: its file, for an hour, without a key.")


class Image(_Named):
    """A picture: its content, or its address for an hour."""

    b64_json: str | None = None
    url: str | None = None


class Images(BaseModel):
    """The pictures of one request."""

    created: int
    data: list[Image]
    output_format: Literal["png"] = "png"
    size: str


class File(_Named):
    """An uploaded file, or the results of a batch."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class Counts(BaseModel):
    """Requests of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchError(BaseModel):
    """Why a batch cannot be begun."""

    code: str | None = None
    line: int | None = None
    message: str
    param: str | None = None


class BatchErrors(BaseModel):
    """The reasons of a failed batch."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class Batch(_Named):
    """A file of requests, on its way."""

    object: Literal["batch"] = "batch"
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "cancelling", "cancelled"
    ]
    model: str | None = None
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    expires_at: int | None = None
    request_counts: Counts = Counts()
    metadata: dict[str, str] | None = None


class ModeOf(_Named):
    """A mode, and the fields of its media."""

    needs: list[str]
    may_have: list[str]


class Model(_Named):
    """A model, and what a request may ask of it."""

    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["vitascope"] = "vitascope"
    modes: list[ModeOf] = Field(description="Modes that it makes.")
    qualities: list[str]
    solvers: list[str]
    adapters: list[str]
    sizes: list[str] = Field(description="Some that it makes without cropping, the default first.")
    defaults: dict[str, Any] = Field(description="Of fields that a request leaves out.")


class Deleted(BaseModel):
    """What was deleted."""

    id: str
    object: str
    deleted: Literal[True] = True


T = TypeVar("T", bound=_Named)


class Page(BaseModel, Generic[T]):
    """Some of the objects, and whether more follow `last_id`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
