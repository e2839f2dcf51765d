"""Which clips are asked, and what was answered."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from vitascope import records, storage
from vitascope.caption.settings import CaptionSettings
from vitascope.clips.index.captions import draw, text_of
from vitascope.config import Settings
from vitascope.errors import Mistake
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import OK, dropped, stable_id
from vitascope.wording import short

CAPTIONS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),  # of the caption: a key of caption.prompts
        pa.field("caption", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),  # a name for model, prompt and frames
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""One row for every field of a clip that was asked for."""

_ROWS = 1 << 13  # that captions are put into at a time

_Row = dict[str, Any]
Asked = tuple[str, str]
"""A clip's id and a caption field."""

# Answers. What failed otherwise the next run asks again: it may have been the storage or the service.
_FINAL = (None, Reason.CAPTION_REFUSED)


class Unusable(Mistake):
    """The model that the settings name cannot be asked; the text says why, and what to change."""


def model_name(settings: CaptionSettings) -> str:
    """The model that is asked."""
    return str(settings.folder if settings.source == "folder" else settings.endpoint_model)


def questions(settings: CaptionSettings) -> dict[str, str]:
    """Field -> a name for all that shapes its answers."""
    shared = (
        settings.source,
        model_name(settings),
        settings.frames,
        settings.max_side_px,
        settings.max_tokens,
    )
    options = sorted(settings.endpoint_options.items()) if settings.source == "endpoint" else ()
    return {
        field: stable_id(*shared, *options, settings.refusal, prompt)
        for field, prompt in settings.prompts.items()
    }


def wanted(clips: Iterable[_Row], settings: CaptionSettings) -> list[_Row]:
    """The clips to be asked: those that lack only a caption; with `clips = "all"`, all good ones too."""
    usable = (c for c in clips if c["status"] == Status.OK or c["reason"] == Reason.NO_CAPTION)
    return [c for c in usable if settings.clips == "all" or not c["caption"]]


def plan(todo: list[tuple[_Row, list[str]]], settings: CaptionSettings, n_there: int) -> list[_Row]:
    """Parts to write: a file's name, its clips, and the fields each is asked for; after `n_there` parts."""
    parts: list[_Row] = []
    for start in range(0, len(todo), settings.clips_per_part):
        clips = [clip | {"fields": fields} for clip, fields in todo[start : start + settings.clips_per_part]]
        key = stable_id(*(word for clip in clips for word in (clip["clip_id"], *clip["fields"])))
        parts.append({"file": f"part-{n_there + len(parts):06d}-{key}.parquet", "clips": clips})
    return parts


def still_to_ask(
    clips: Iterable[_Row], answers: Iterable[_Row], fields: list[str]
) -> list[tuple[_Row, list[str]]]:
    """Each clip with the fields that `answers` (rows of CAPTIONS) leave open; clips without such left out."""
    done = {(row["clip_id"], row["field"]) for row in answers if row["reason"] in _FINAL}
    open_fields = ((clip, [f for f in fields if (clip["clip_id"], f) not in done]) for clip in clips)
    return [(clip, left) for clip, left in open_fields if left]


def read(folder: str, settings: CaptionSettings) -> list[_Row]:
    """The rows of CAPTIONS that answer the present questions: the last for each field of a clip.

    None if the stage is off.
    """
    if settings.source == "off" or not storage.list_files(folder):
        return []
    asked = questions(settings)
    rows = (row for row in storage.rows(folder) if asked.get(row["field"]) == row["question"])
    return list({(row["clip_id"], row["field"]): row for row in rows}.values())


def captions(rows: Iterable[_Row]) -> dict[str, dict[str, str]]:
    """What the stage found, from rows of CAPTIONS: clip_id -> field -> text."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["status"] == Status.OK:
            found.setdefault(row["clip_id"], {})[row["field"]] = row["caption"]
    return found


def clip_table(settings: Settings, rows: list[_Row] | None = None) -> pa.Table:
    """A run's records.CLIPS with the captions that the stage found; as they are if it is off.

    rows: what `read` gives for these settings, for a caller who has it.
    """
    clips = storage.read_table(settings.path("clips"), records.CLIPS.names)
    found = captions(read(settings.path("captions"), settings.caption) if rows is None else rows)
    if not found:
        return clips
    changed = (_with(batch, found, settings) for batch in clips.to_batches(_ROWS))
    return pa.concat_tables([clips.slice(0, 0), *changed])


def _with(clips: pa.RecordBatch, found: dict[str, dict[str, str]], settings: Settings) -> pa.Table:
    rows = clips.to_pylist()
    for row in rows:
        if texts := found.get(row["clip_id"]):
            row |= merged(row, texts, settings.clips.caption_fields)
    return pa.Table.from_pylist(rows, schema=clips.schema)


def clip_rows(settings: Settings) -> Iterator[_Row]:
    """The rows of `clip_table`, few of them in memory at a time."""
    return storage.iter_rows(clip_table(settings))


def merged(clip: Mapping[str, Any], texts: Mapping[str, str], weights: Mapping[str, float]) -> _Row:
    """What changes in a row of records.CLIPS with a model's captions, by field: they replace those it has.

    Then one is drawn anew; a clip that lacked only a caption is good.
    """
    all_texts = dict(clip.get("captions") or {}) | dict(texts)
    changed: _Row = {"captions": {field: all_texts[field] for field in weights if field in all_texts}}
    try:
        changed["caption"] = all_texts[draw(all_texts, weights, clip["clip_id"])]
    except Rejected:  # no field with a weight
        return changed
    return changed | (OK if clip["reason"] == Reason.NO_CAPTION else {})


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
    """Rows of CAPTIONS from what became of each (clip_id, field): its caption, or why there is none."""
    asked, model = questions(settings), model_name(settings)
    rows = [
        {"clip_id": clip_id, "field": field, "model": model, "question": asked[field], **_columns(outcome)}
        for (clip_id, field), outcome in outcomes.items()
    ]
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def _columns(outcome: str | Rejected) -> _Row:
    if isinstance(outcome, Rejected):
        return {"caption": None, **dropped(outcome.reason, outcome.detail)}
    return {"caption": outcome, **OK}
