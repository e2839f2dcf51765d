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


OUTCOME = [
    pa.field("status", pa.string(), nullable=False),  # ledger.Status
    pa.field("reason", pa.string()),  # ledger.Reason if dropped
    pa.field("detail", pa.string()),
]
"""The columns of the outcome of a row, in every table."""

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
        *SAMPLES,
        pa.field("latent_shape", pa.list_(pa.int32(), 4), nullable=False),
        pa.field("latent", pa.binary(), nullable=False),  # bf16 bytes, T H W C
        pa.field("text", pa.binary(), nullable=False),  # bf16 bytes, n_text x text_dim
    ]
)
"""A latent shard: its rows of the index, and their bytes."""

DROPS = pa.schema([pa.field("clip_id", pa.string(), nullable=False), pa.field("name", pa.string()), *OUTCOME])
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
        pa.field("seconds", pa.float64()),  # to denoise it (with the wait for a pass), decode and write it
        pa.field("device_s", pa.float64()),  # of passes, each divided among its requests by their patches
        pa.field("changes", pa.list_(pa.string())),  # generate.changes.Change; details in the sidecar
        *OUTCOME,
    ]
)
"""One row for every request of a batch: its output, or why it has none."""

Outcome = dict[str, str | None]
"""The columns status, reason and detail."""

OK: Outcome = {"status": str(Status.OK), "reason": None, "detail": None}
"""The outcome columns of a usable row."""


def dropped(reason: str, detail: str) -> Outcome:
    """The outcome columns of a row that was dropped."""
    return {"status": str(Status.DROPPED), "reason": str(reason), "detail": detail}
