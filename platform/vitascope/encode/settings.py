"""Settings of the encode stage."""

from typing import Literal

from pydantic import Field

from vitascope.section import Section


class EncodeSettings(Section):
    """Buckets, codec and text encoder."""

    max_pixels: int = Field(
        720 * 1280, ge=256, description="Largest frame area in pixels; larger frames are scaled down to it."
    )
    frame_counts: tuple[int, ...] = Field(
        (1, 9, 17, 33, 65, 129), min_length=1, description="Clip lengths of the buckets, each 1 + 4k frames."
    )
    codec: Literal["dct"] = Field("dct", description="Video compression network.")
    dct_channels: int = Field(48, ge=3, le=768, description="Coefficients kept of each 4x8x8 block of RGB.")
    text_encoder: Literal["minilm"] = Field("minilm", description="Text encoder whose token states condition the model.")
    max_text_tokens: int = Field(128, ge=8, le=512, description="Longer captions are cut to this many tokens.")
    shard_tokens: int = Field(500_000, ge=1, description="Patches per latent shard, about.")
