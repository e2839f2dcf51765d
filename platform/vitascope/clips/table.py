"""The tables of the stage, and the one view of clips and their captions.

`clips/` holds what sidecars and tables of captions say, and `captions/` what a model answered; `clip_table`
joins them, and every stage after these reads clips through it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from vitascope import storage
from vitascope.caption.settings import CaptionSettings
from vitascope.clips.filters import HOOKS, SCORES
from vitascope.clips.index.captions import draw
from vitascope.config import Settings
from vitascope.ledger import Reason, Rejected, Status
from vitascope.records import OK, OUTCOME, stable_id

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),  # path relative to the input, '/'-separated
        pa.field("size_bytes", pa.int64()),
        pa.field("version", pa.string()),  # the store's tag, or size and time of change
        pa.field("content", pa.string()),  # hash of the bytes
        pa.field("kind", pa.string()),  # video | image
        pa.field("codec", pa.string()),
        pa.field("width", pa.int32()),  # after rotation
        pa.field("height", pa.int32()),
        pa.field("rotation_deg", pa.int32()),  # clockwise turn that its readers apply: 0, 90, 180, 270
        pa.field("mirrored", pa.bool_()),  # and whether left and right are exchanged after that
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64()),
        pa.field("n_frames", pa.int64()),
        pa.field("decoder", pa.string()),  # decord | pyav | pillow
        *OUTCOME,
    ]
)
"""One row for every file found: what it is, or why it cannot be used."""

CLIPS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # of the file when it was scanned
        pa.field("kind", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),  # frames are picked at this rate
        pa.field("n_frames", pa.int32(), nullable=False),  # frames the span gives at `fps`
        pa.field("width", pa.int32(), nullable=False),  # of the picture within its black bars
        pa.field("height", pa.int32(), nullable=False),
        pa.field(
            "crop_left", pa.float64(), nullable=False
        ),  # where that is, in fractions of the frame as shown:
        pa.field("crop_top", pa.float64(), nullable=False),  # 0, 0, 1, 1 if there are no bars
        pa.field("crop_width", pa.float64(), nullable=False),
        pa.field("crop_height", pa.float64(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("captions", pa.map_(pa.string(), pa.string())),  # by field, in the order of the settings
        pa.field("caption", pa.string()),  # the one of them that is sampled
        *(pa.field(name, pa.float32()) for name in (*SCORES, *HOOKS)),
        pa.field("split", pa.string(), nullable=False),  # train | val, by source video
        pa.field("duplicate_of", pa.string()),  # clip_id of the one that is kept, of a dropped duplicate
        *OUTCOME,
    ]
)
"""One row for every clip cut: a span of a video, or a whole image."""

CAPTIONS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),  # of the caption: a key of caption.prompts
        pa.field("caption", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),  # a name for model, prompt and frames
        *OUTCOME,
    ]
)
"""One row for every field of a clip that was asked for."""

_ROWS = 1 << 13  # that captions are put into at a time

Row = dict[str, Any]
"""A row of a table, as Arrow gives and takes it."""


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


def answers(folder: str, settings: CaptionSettings) -> list[Row]:
    """The rows of CAPTIONS that answer the present questions: the last for each field of a clip.

    None if the stage is off.
    """
    if settings.source == "off" or not storage.list_files(folder):
        return []
    asked = questions(settings)
    rows = (row for row in storage.rows(folder) if asked.get(row["field"]) == row["question"])
    return list({(row["clip_id"], row["field"]): row for row in rows}.values())


def captions(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """The captions in rows of CAPTIONS: clip_id -> field -> text."""
    texts: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["status"] == Status.OK:
            texts.setdefault(row["clip_id"], {})[row["field"]] = row["caption"]
    return texts


def clip_table(settings: Settings, answered: Iterable[Row] | None = None) -> pa.Table:
    """A run's CLIPS with the captions that a model gave; as they are if the caption stage is off.

    Args:
        answered: `answers` of these settings, for a caller that has them.
    """
    clips = _with_all_columns(storage.read_table(settings.path("clips")))
    if answered is None:
        answered = answers(settings.path("captions"), settings.caption)
    texts = captions(answered)
    if not texts:
        return clips
    changed = (_with(batch, texts, settings) for batch in clips.to_batches(_ROWS))
    return pa.concat_tables([clips.slice(0, 0), *changed])


def _with_all_columns(clips: pa.Table) -> pa.Table:
    """CLIPS; tables written before `duplicate_of` was a column lack it."""
    if "duplicate_of" not in clips.column_names:
        clips = clips.append_column(CLIPS.field("duplicate_of"), pa.nulls(len(clips), pa.string()))
    return clips.select(CLIPS.names)


def _with(clips: pa.RecordBatch, texts: dict[str, dict[str, str]], settings: Settings) -> pa.Table:
    rows = clips.to_pylist()
    for row in rows:
        if own := texts.get(row["clip_id"]):
            row |= merged(row, own, settings.clips.caption_fields)
    return pa.Table.from_pylist(rows, schema=clips.schema)


def clip_rows(settings: Settings) -> Iterator[Row]:
    """The rows of `clip_table`, few of them in memory at a time."""
    return storage.iter_rows(clip_table(settings))


def merged(clip: Mapping[str, Any], texts: Mapping[str, str], weights: Mapping[str, float]) -> Row:
    """What changes in a row of CLIPS with a model's captions, by field: they replace those it has.

    Then one is sampled anew; a clip that lacked only a caption is good.
    """
    all_texts = dict(clip.get("captions") or {}) | dict(texts)
    changed: Row = {"captions": {field: all_texts[field] for field in weights if field in all_texts}}
    try:
        changed["caption"] = all_texts[draw(all_texts, weights, clip["clip_id"])]
    except Rejected:  # no field with a weight
        return changed
    return changed | (OK if clip["reason"] == Reason.NO_CAPTION else {})
