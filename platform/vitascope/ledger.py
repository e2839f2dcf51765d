"""The outcome of every item, and why.

Every table of the flow has a `status` and a `reason` per row: `ok`, or `dropped` with one of the reasons
below. A stage that cannot use an item raises `Rejected` deep inside and turns it into such a row at its edge,
so that nothing stops and nothing is silently lost.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum


class Status(StrEnum):
    """The outcome of an item."""

    OK = "ok"
    DROPPED = "dropped"


class Reason(StrEnum):
    """Why an item was dropped; the detail, free text, has the particulars.

    A clip beyond the limits of a score has a reason of its own for each score: `clips.filters.reason`.
    """

    UNREADABLE = "unreadable"  # not a container or picture that any decoder opens
    EMPTY_FILE = "empty_file"
    NO_VIDEO_STREAM = "no_video_stream"
    DECODE_FAILED = "decode_failed"  # opens, but its frames do not decode
    SOURCE_CHANGED = "source_changed"  # the file has changed since it was scanned
    TOO_SHORT = "too_short"
    TOO_SMALL = "too_small"
    NO_CAPTION = "no_caption"
    DUPLICATE = "duplicate"  # the same as another, which is kept; the detail names it
    CAPTION_REFUSED = "caption_refused"  # the model refused to give one, or gave none
    CAPTION_FAILED = "caption_failed"  # no answer from the model, or an unreadable one
    NO_BUCKET = "no_bucket"
    TOO_MANY_TOKENS = "too_many_tokens"
    INVALID_REQUEST = "invalid_request"
    MEDIA_MISSING = "media_missing"
    GENERATION_FAILED = "generation_failed"
    TOO_LATE = "too_late"  # a request whose deadline cannot be met
    CANCELLED = "cancelled"  # by the user, before it was made
    PROMPT_REFUSED = "prompt_refused"  # by prompts.filter
    FRAMES_REFUSED = "frames_refused"  # by prompts.frames


class Rejected(ValueError):
    """An item cannot be used: `reason` for the count, `detail` for a human reader.

    doubtful: the item may be good, and another try may succeed.
    """

    def __init__(self, reason: Reason, detail: str, *, doubtful: bool = False) -> None:
        super().__init__(reason, detail)
        self.doubtful = doubtful
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def dropped_by_reason(rows: Iterable[dict]) -> dict[str, int]:
    """Counts the dropped rows of a table by reason, most frequent first."""
    counts = Counter(str(row["reason"]) for row in rows if row["status"] == Status.DROPPED)
    return dict(counts.most_common())
