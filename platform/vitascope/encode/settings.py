"""Settings of the encode stage."""

from typing import Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vitascope.section import Execution, Location, Section

Buckets = tuple[tuple[int, int, int], ...]


class Strides(NamedTuple):
    """Of what a codec makes a latent frame and a latent pixel."""

    time: int  # frames, after the first frame, which is coded alone
    space: int  # pixels, in height and in width


STRIDES = {"dct": Strides(time=4, space=8)}
"""Of each codec that needs no folder; `encode.strides` has those of the others."""


def check_frame_counts(counts: tuple[int, ...], stride: int) -> None:
    """Raises ValueError for a clip length that is no whole number of latent frames."""
    if any(n < 1 or n % stride != 1 for n in counts):
        some = ", ".join(str(1 + k * stride) for k in range(4))
        raise ValueError(f"each frame count is 1 + {stride}k ({some}, …), got {list(counts)}")


def check_buckets(buckets: Buckets, stride: int) -> None:
    """Raises ValueError for a bucket that is no size of whole latent frames."""
    if any(n < 1 or n % stride != 1 or min(h, w) < 1 for n, h, w in buckets):
        raise ValueError(f"a bucket is [frames, height, width] of 1 + {stride}k frames and sides above 0")


class EncodeSettings(Section):
    """Buckets, codec and text encoder."""

    codec: Literal["dct", "diffusers"] = Field(
        "dct",
        description="Video codec: dct, a fixed transform; or diffusers, the autoencoder in codec_folder.",
    )
    codec_folder: Location | None = Field(
        None,
        description="With codec diffusers, a folder that diffusers wrote: an autoencoder's, or a pipeline's "
        "with one in vae; local, s3:// or gs://.",
    )
    codec_precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="With codec diffusers, the number format it computes in; bf16 is faster on GPUs and less "
        "exact, and a device that is slow in bf16 computes in float32 all the same.",
    )
    tile_pixels: int | None = Field(
        None,
        ge=4096,
        description="With codec diffusers, the largest frame area in pixels that is coded at once, which "
        "bounds memory: larger frames are coded as overlapping tiles. Unset, all are coded whole.",
    )
    max_pixels: int = Field(
        720 * 1280, ge=256, description="Largest frame area in pixels; larger frames are scaled down to it."
    )
    frame_counts: tuple[int, ...] = Field(
        (1, 9, 17, 33, 65, 129),
        min_length=1,
        description="Clip lengths of the buckets, each a whole number of latent frames: 1 + 4k frames with "
        "codec dct.",
    )
    buckets: Buckets | None = Field(
        None,
        min_length=1,
        description="Fixed sizes [frames, height, width], which replace max_pixels and frame_counts; "
        "`vitascope buckets suggest` proposes some.",
    )
    max_crop: float = Field(
        0.3,
        ge=0,
        le=1,
        description="With fixed buckets, the largest fraction of a frame that may be cropped; 0.3 lets 4:3 "
        "into 16:9 (0.25), and keeps portrait video out of wide buckets (0.68).",
    )
    sizes_per_clip: int = Field(
        1,
        ge=1,
        le=8,
        description="Number of sizes of a clip, from one decode: with fixed buckets those that keep most of "
        "it, otherwise near native and then each with a quarter of the previous area.",
    )
    dct_channels: int = Field(64, ge=3, le=768, description="Coefficients kept of each 4x8x8 block of RGB.")
    text_encoder: Literal["minilm", "hf"] = Field(
        "minilm",
        description="Text encoder whose token states condition the model; hf is T5 or UMT5 from text_folder.",
    )
    text_folder: Location | None = Field(
        None,
        description="Folder of hf's weights (safetensors) and tokenizer, or of a pipeline with both: local, "
        "s3:// or gs://.",
    )
    text_precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="Precision of the text encoder's weights and products; bf16 halves its memory.",
    )
    max_text_tokens: int = Field(
        128, ge=8, le=512, description="Longer captions are cut to this many tokens."
    )
    shard_tokens: int = Field(
        131_072,
        ge=1,
        description="Approximate patches per latent shard. A shard is decoded as a whole: with codec dct "
        "and patches of 2, 3 KiB of pixels each.",
    )
    gpus: Execution[float] = Field(
        0.0,
        ge=0,
        description="GPUs per encoder process (codec and text encoder); 0.5 puts two on one GPU, 0 uses "
        "CPUs.",
    )
    nvdec_gpus: Execution[float] = Field(
        0.0,
        ge=0,
        description="GPUs per decoder process, for NVDEC if it supports the codec; 0.1 puts ten on one "
        "GPU, 0 decodes on CPUs.",
    )

    @model_validator(mode="after")
    def _folder_if_hf(self) -> "EncodeSettings":
        if (self.text_encoder == "hf") != (self.text_folder is not None):
            raise ValueError(
                f"text_encoder is {self.text_encoder} and text_folder is {self.text_folder or 'not set'}; "
                "set text_folder with hf, and with hf alone"
            )
        return self

    @field_validator("codec_folder")
    @classmethod
    def _of_its_codec(cls, folder: str | None, info: ValidationInfo) -> str | None:
        codec = info.data.get("codec")
        if codec == "diffusers" and folder is None:
            raise ValueError("codec diffusers reads an autoencoder from a folder; name one")
        if codec in STRIDES and folder is not None:
            raise ValueError(f"codec {codec} reads no folder; leave it out, or set encode.codec to diffusers")
        return folder

    @field_validator("codec_precision")
    @classmethod
    def _that_its_codec_has(cls, precision: str, info: ValidationInfo) -> str:
        if info.data.get("codec") == "dct" and precision != "float32":
            raise ValueError("codec dct computes in float32; leave it out")
        return precision

    @field_validator("tile_pixels")
    @classmethod
    def _of_a_codec_with_tiles(cls, tile_pixels: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("codec") == "dct" and tile_pixels is not None:
            raise ValueError("codec dct codes frames of any size at once; leave it out")
        return tile_pixels

    @field_validator("frame_counts")
    @classmethod
    def _whole_latents_in_order(cls, counts: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if strides := STRIDES.get(info.data.get("codec", "")):
            check_frame_counts(counts, strides.time)
        if list(counts) != sorted(set(counts)):
            raise ValueError(
                f"frame counts rise without repeats, got {list(counts)}; use {sorted(set(counts))}"
            )
        return counts

    @field_validator("buckets")
    @classmethod
    def _each_a_size_once(cls, buckets: Buckets | None, info: ValidationInfo) -> Buckets | None:
        if strides := STRIDES.get(info.data.get("codec", "")):
            check_buckets(buckets or (), strides.time)
        if buckets and len(set(buckets)) < len(buckets):
            raise ValueError("each bucket is given once")
        return buckets
