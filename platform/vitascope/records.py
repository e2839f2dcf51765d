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
        pa.field("rotation_deg", pa.int32()),  # clockwise rotation that readers apply: 0, 90, 180, 270
        pa.field("mirrored", pa.bool_()),  # whether left and right are then exchanged
        pa.field("fps", pa.float64()),
        pa.field("duration_s", pa.float64()),
        pa.field("n_frames", pa.int64()),
        pa.field("decoder", pa.string()),  # decord | pyav | pillow
        *_OUTCOME,
    ]
)
"""One row for every input file: what it is, or why it cannot be used."""

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
"""The scores that clips are filtered by: clips.filters describes each, clips.scores computes them."""

HOOKS = ("text", "watermark", "aesthetic")
"""Scores by a user's own functions."""

_SERIES = {
    **dict.fromkeys(("change", "peak_change", "motion", "residual"), pa.float16()),
    **dict.fromkeys(("brightness", "contrast", "saturation", "sharpness"), pa.float16()),
    "bars": pa.float16(),  # 4 a frame
    "phash": pa.int64(),
    "copy_hashes": pa.int64(),  # 7 a frame
    "combing": pa.float16(),  # NaN for frames that were not examined
    "sides": pa.int32(),  # 2 a frame: height and width as displayed
}

CATALOG = pa.schema(
    [
        *VIDEOS,
        pa.field("again", pa.bool_(), nullable=False),  # the store failed: the file is to be read again
        pa.field("said_s", pa.float64()),  # duration in its headers, if its packets end earlier
        *(pa.field(name, pa.list_(kind)) for name, kind in _SERIES.items()),
    ]
)
"""The facts about every file: records.VIDEOS, and the features of its frames in order, on the grid of
clips.fps (clips.features, clips.hashing); NaN for a damaged frame."""

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
        pa.field("crop_left", pa.float64(), nullable=False),  # as fractions of the upright frame:
        pa.field("crop_top", pa.float64(), nullable=False),  # 0, 0, 1, 1 if there are no bars
        pa.field("crop_width", pa.float64(), nullable=False),
        pa.field("crop_height", pa.float64(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("captions", pa.map_(pa.string(), pa.string())),  # by field, in the order of the settings
        pa.field("caption", pa.string()),  # the sampled one
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
        pa.field("digest", pa.int64(), nullable=False),  # of its content in the shard: encode.shards.digest
    ]
)
"""The latent index: one row per sample, all that planning needs, and the location of its bytes."""

LATENTS = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("latent", pa.binary(), nullable=False),  # bf16 bytes, T H W C
        pa.field("latent_shape", pa.list_(pa.int32(), 4), nullable=False),
        pa.field("text", pa.binary(), nullable=False),  # bf16 bytes, n_text x text_dim
        pa.field("n_text", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
    ]
)
"""A latent shard: the bytes."""

DROPS = pa.schema(
    [pa.field("clip_id", pa.string(), nullable=False), pa.field("name", pa.string()), *_OUTCOME]
)
"""Clips without a sample, and why."""

MANIFEST = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),  # of the request file, from 1
        pa.field("custom_id", pa.string()),  # this and the following are null if the line lacks them
        pa.field("mode", pa.string()),  # generate.request.Mode, or image for a single picture
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("n_frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("uri", pa.string()),  # the output
        pa.field("seconds", pa.float64()),  # duration, including the wait for room in a pass
        pa.field("changes", pa.list_(pa.string())),  # generate.changes.Change; details in the sidecar
        *_OUTCOME,
    ]
)
"""One row for every request of a batch: its output, or why it has none."""

OK = {"status": str(Status.OK), "reason": None, "detail": None}
"""The outcome columns of a usable row."""


def dropped(reason: str, detail: str) -> dict[str, str]:
    """The outcome columns of a row that was dropped."""
    return {"status": str(Status.DROPPED), "reason": str(reason), "detail": detail}
