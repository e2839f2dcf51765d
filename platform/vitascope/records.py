"""Frozen value types that pass between stages."""

import hashlib
from dataclasses import dataclass

import pyarrow as pa

from vitascope.ledger import Status


@dataclass(frozen=True, order=True)
class VideoSize:
    """A video's size in pixels: frames, height, width. An image is a video of one frame."""

    n_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.n_frames, self.height, self.width) < 1:
            raise ValueError(f"a video size is at least 1 in every axis, got {self}")

    def __str__(self) -> str:
        return f"{self.n_frames}x{self.height}x{self.width}"


def stable_id(*parts: object) -> str:
    """A 16-character name derived from `parts` alone, the same in every process and on every machine."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).hexdigest()


def stable_int(*parts: object) -> int:
    """A non-negative 63-bit integer derived from `parts` alone: sample ids, generator seeds."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


_OUTCOME = [
    pa.field("status", pa.string(), nullable=False),  # ledger.Status
    pa.field("reason", pa.string()),  # ledger.Reason if dropped
    pa.field("detail", pa.string()),
]

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
        *_OUTCOME,
    ]
)
"""One row for every file found: what it is, or why it cannot be used."""

SCORES = (
    "black_share",
    "still_share",
    "contrast",
    "brightness",
    "saturation",
    "sharpness",
    "motion",
    "max_change",
    "combing",
)
"""What clips are filtered by: clips.filters says what each is, clips.scores how it is computed."""

HOOKS = ("text", "watermark", "aesthetic")
"""Scores by a user's own functions."""

_SERIES = {
    **dict.fromkeys(("change", "peak_change", "motion", "residual"), pa.float16()),
    **dict.fromkeys(("brightness", "contrast", "saturation", "sharpness"), pa.float16()),
    "bars": pa.float16(),  # 4 a frame
    "phash": pa.int64(),
    "copy_hashes": pa.int64(),  # 7 a frame
    "combing": pa.float16(),  # NaN of frames that were not looked at
    "sides": pa.int32(),  # 2 a frame: height and width as displayed
}

CATALOG = pa.schema(
    [
        *VIDEOS,
        pa.field("again", pa.bool_(), nullable=False),  # it was the store that failed: to be looked at again
        pa.field("said_s", pa.float64()),  # duration by its headers, if its packets end earlier
        *(pa.field(name, pa.list_(kind)) for name, kind in _SERIES.items()),
    ]
)
"""What is known of every file: records.VIDEOS, and how its frames look, one after the other on the grid of
clips.fps (clips.features, clips.hashing); NaN if one is damaged."""

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
        pa.field("crop_left", pa.float64(), nullable=False),  # where that is, in shares of the upright frame:
        pa.field("crop_top", pa.float64(), nullable=False),  # 0, 0, 1, 1 if there are no bars
        pa.field("crop_width", pa.float64(), nullable=False),
        pa.field("crop_height", pa.float64(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("captions", pa.map_(pa.string(), pa.string())),  # by field, in the order of the settings
        pa.field("caption", pa.string()),  # the one of them that is drawn
        *(pa.field(name, pa.float32()) for name in SCORES + HOOKS),
        pa.field("split", pa.string(), nullable=False),  # train | val, by source video
        *_OUTCOME,
    ]
)
"""One row for every clip cut: a span of a video, or a whole image."""

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),  # bucket, in pixels
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("latent_frames", pa.int32(), nullable=False),  # latent T H W
        pa.field("latent_height", pa.int32(), nullable=False),
        pa.field("latent_width", pa.int32(), nullable=False),
        pa.field("n_text", pa.int32(), nullable=False),  # text tokens
        pa.field("psnr_db", pa.float32(), nullable=False),  # codec's, measured on this sample
        pa.field("caption", pa.string(), nullable=False),
        pa.field("digest", pa.int64(), nullable=False),  # of what the shard holds: encode.shards.digest
    ]
)
"""The latent index: one row a sample, all that planning needs, and where its bytes are."""

LATENTS = pa.schema(
    [
        *SAMPLES,
        pa.field("latent_shape", pa.list_(pa.int32(), 4), nullable=False),
        pa.field("latent", pa.binary(), nullable=False),  # bf16 bytes, T H W C
        pa.field("text", pa.binary(), nullable=False),  # bf16 bytes, n_text x text_dim
    ]
)
"""A latent shard: its rows of the index, and their bytes."""

DROPS = pa.schema(
    [pa.field("clip_id", pa.string(), nullable=False), pa.field("name", pa.string()), *_OUTCOME]
)
"""Clips that became no sample, and why."""

MANIFEST = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),  # of the request file, from 1
        pa.field("custom_id", pa.string()),  # this and what follows is null if the line does not tell
        pa.field("mode", pa.string()),  # generate.request.Mode, or image for a single picture
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("n_frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("uri", pa.string()),  # the output
        pa.field("seconds", pa.float64()),  # it took, with the waiting for a place in a pass
        pa.field("changes", pa.list_(pa.string())),  # generate.changes.Change; the sidecar has particulars
        *_OUTCOME,
    ]
)
"""One row for every request of a batch: its output, or why there is none."""

OK = {"status": str(Status.OK), "reason": None, "detail": None}
"""The outcome columns of a row that is fine."""


def dropped(reason: str, detail: str) -> dict[str, str]:
    """The outcome columns of a row that was dropped."""
    return {"status": str(Status.DROPPED), "reason": str(reason), "detail": detail}
