"""Which clips and fields to ask for, and rows from answers."""

import re
from collections.abc import Iterable, Mapping

import pyarrow as pa

from vitascope.caption.settings import CaptionSettings
from vitascope.clips.index.captions import text_of
from vitascope.clips.table import CAPTIONS, Row, model_name, questions
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import OK, dropped, stable_id
from vitascope.wording import short

Asked = tuple[str, str]
"""A clip's id and a caption field."""

# Final outcomes. The next run repeats other failures, which may be due to the storage or the service.
_FINAL = (None, Reason.CAPTION_REFUSED)


class Unusable(Mistake):
    """The model in the settings cannot be used; the message says why, and what to change."""


def wanted(clips: Iterable[Row], settings: CaptionSettings) -> list[Row]:
    """The clips to caption: those that lack only a caption; with `clips = "all"`, all good ones too."""
    usable = (c for c in clips if c["status"] == Status.OK or c["reason"] == Reason.NO_CAPTION)
    return [c for c in usable if settings.clips == "all" or not c["caption"]]


def plan(todo: list[tuple[Row, list[str]]], settings: CaptionSettings, n_existing: int) -> list[Row]:
    """Parts to write after the existing ones: file name, clips, and the fields to ask for of each."""
    parts: list[Row] = []
    for start in range(0, len(todo), settings.clips_per_part):
        clips = [clip | {"fields": fields} for clip, fields in todo[start : start + settings.clips_per_part]]
        key = stable_id(*(word for clip in clips for word in (clip["clip_id"], *clip["fields"])))
        parts.append({"file": f"part-{n_existing + len(parts):06d}-{key}.parquet", "clips": clips})
    return parts


def still_to_ask(
    clips: Iterable[Row], answers: Iterable[Row], fields: list[str]
) -> list[tuple[Row, list[str]]]:
    """The clips with fields that `answers` (rows of CAPTIONS) leave open, with those fields."""
    done = {(row["clip_id"], row["field"]) for row in answers if row["reason"] in _FINAL}
    open_fields = ((clip, [f for f in fields if (clip["clip_id"], f) not in done]) for clip in clips)
    return [(clip, left) for clip, left in open_fields if left]


def caption_of(answer: str | None, refusal: str) -> str:
    """The caption in a model's answer.

    Raises:
        Rejected: CAPTION_REFUSED if it is empty or matches the regular expression `refusal`.
    """
    text = text_of(answer)
    if not text:
        raise Rejected(Reason.CAPTION_REFUSED, "the answer is empty")
    if refusal and re.search(refusal, text):
        raise Rejected(Reason.CAPTION_REFUSED, short(text, 200))
    return text


def table(outcomes: Mapping[Asked, str | Rejected], settings: CaptionSettings) -> pa.Table:
    """Rows of CAPTIONS from the outcome of each (clip_id, field): its caption, or why there is none."""
    asked, model = questions(settings), model_name(settings)
    rows = [
        {"clip_id": clip_id, "field": field, "model": model, "question": asked[field], **_columns(outcome)}
        for (clip_id, field), outcome in outcomes.items()
    ]
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def _columns(outcome: str | Rejected) -> Row:
    if isinstance(outcome, Rejected):
        return {"caption": None, **dropped(outcome.reason, outcome.detail)}
    return {"caption": outcome, **OK}
