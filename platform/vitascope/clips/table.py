"""The tables of the stage, and the one view of clips and their captions.

`clips/` holds captions from sidecars and captions tables, `captions/` those from a model; `clip_table` joins
them, and later stages read clips through it. `media.clip.Clip.of_row(row).frames()` reads a row's frames.
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
        pa.field("version", pa.string()),  # the store's tag, or size and modification time
        pa.field("content", pa.string()),  # hash of the bytes
        pa.field("kind", pa.string()),  # video | image
        pa.field("codec", pa.string()),
        pa.field("width", pa.int32()),  # after rotation
        pa.field("height", pa.int32()),
        pa.field("rotation_deg", pa.int32()),  # clockwise rotation applied by readers: 0, 90, 180, 270
        pa.field("mirrored", pa.bool_()),  # whether readers mirror it left to right after that
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64()),
        pa.field("n_frames", pa.int64()),
        pa.field("decoder", pa.string()),  # decord | pyav | pillow
        *OUTCOME,
    ]
)
"""One row for every file of the input: its facts, or why it is unusable."""

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
        pa.field("fps", pa.float64(), nullable=False),  # rate at which frames are taken
        pa.field("n_frames", pa.int32(), nullable=False),  # of the span at `fps`
        pa.field("width", pa.int32(), nullable=False),  # of the picture within black bars
        pa.field("height", pa.int32(), nullable=False),
        pa.field("crop_left", pa.float64(), nullable=False),  # the picture, in fractions of the frame:
        pa.field("crop_top", pa.float64(), nullable=False),  # 0, 0, 1, 1 without bars
        pa.field("crop_width", pa.float64(), nullable=False),
        pa.field("crop_height", pa.float64(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("captions", pa.map_(pa.string(), pa.string())),  # by field, in the order of the settings
        pa.field("caption", pa.string()),  # the sampled one of them
        *(pa.field(name, pa.float32()) for name in (*SCORES, *HOOKS)),
        pa.field("split", pa.string(), nullable=False),  # train | val, by source video
        pa.field("duplicate_of", pa.string()),  # clip_id of the clip kept in its place
        *OUTCOME,
    ]
)
"""One row for every clip: a span of a video, or an image."""

CAPTIONS = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),  # a key of caption.prompts
        pa.field("caption", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),  # identity of model, prompt and frames
        *OUTCOME,
    ]
)
"""One row for every caption field of a clip that a model was asked for."""

_ROWS = 1 << 13  # that captions are joined to at a time

Row = dict[str, Any]
"""A row of a table, as Arrow and Ray Data have it."""


def model_name(settings: CaptionSettings) -> str:
    """The model that writes captions."""
    return str(settings.folder if settings.source == "folder" else settings.endpoint_model)


def questions(settings: CaptionSettings) -> dict[str, str]:
    """Field -> identity of everything that shapes its answers."""
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
    """The rows of CAPTIONS that answer the current questions: the last for each field of a clip.

    Empty if the stage is off.
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
    """CLIPS of a run with the captions of the caption stage, if that is on.

    Args:
        answered: `answers` of these settings, for a caller that has them.
    """
    clips = _table(settings.path("clips"))
    if answered is None:
        answered = answers(settings.path("captions"), settings.caption)
    texts = captions(answered)
    if not texts:
        return clips
    changed = (_with(batch, texts, settings) for batch in clips.to_batches(_ROWS))
    return pa.concat_tables([clips.slice(0, 0), *changed])


def _table(uri: str) -> pa.Table:
    """CLIPS; columns that a table of an earlier release lacks are null, if they may be."""
    clips = storage.read_table(uri)
    absent = [field for field in CLIPS if field.name not in clips.column_names]
    if required := [field.name for field in absent if not field.nullable]:
        return storage.read_table(uri, required)  # raises, and says what to do
    for field in absent:
        clips = clips.append_column(field, pa.nulls(len(clips), field.type))
    return clips.select(CLIPS.names)


def _with(clips: pa.RecordBatch, texts: dict[str, dict[str, str]], settings: Settings) -> pa.Table:
    rows = clips.to_pylist()
    for row in rows:
        if own := texts.get(row["clip_id"]):
            row |= merged(row, own, settings.clips.caption_fields)
    return pa.Table.from_pylist(rows, schema=clips.schema)


def clip_rows(settings: Settings) -> Iterator[Row]:
    """The rows of `clip_table`, few in memory at a time."""
    return storage.iter_rows(clip_table(settings))


def merged(clip: Mapping[str, Any], texts: Mapping[str, str], weights: Mapping[str, float]) -> Row:
    """The changed columns of a row of CLIPS with captions of a model by field, which replace its own.

    The caption is sampled again; a clip that lacked only a caption becomes usable.
    """
    all_texts = dict(clip.get("captions") or {}) | dict(texts)
    changed: Row = {"captions": {field: all_texts[field] for field in weights if field in all_texts}}
    try:
        changed["caption"] = all_texts[draw(all_texts, weights, clip["clip_id"])]
    except Rejected:  # no field with a weight
        return changed
    return changed | (OK if clip["reason"] == Reason.NO_CAPTION else {})
