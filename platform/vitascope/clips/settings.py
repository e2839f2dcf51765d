"""Settings of the clips stage."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from vitascope.clips.filters import Filters, ShotSettings
from vitascope.section import Execution, Location, Section

_Seconds = Annotated[float, Field(ge=0.01)]  # so that a long source ends in a bounded number of clips


class ClipsSettings(Section):
    """The input files, and how they are cut."""

    input: Location | None = Field(
        None,
        description="Folder or bucket of videos, images and caption sidecars, or tars of them; hidden files "
        "and folders (a leading dot) are skipped. Required, except for the demo, which by default puts its "
        "own media into <run.folder>/input.",
    )
    captions: Location | None = Field(
        None,
        description="Parquet or CSV table, or folder of Parquet files called `*.parquet`, with the columns "
        "name and caption_fields; sidecars take precedence.",
    )
    caption_fields: dict[str, float] = Field(
        {"caption": 1.0},
        min_length=1,
        description="Captions by their names in JSON sidecars, tables and caption.prompts, with the weights "
        "for sampling one; a text file is the first. The clip table keeps all of them.",
    )
    catalog: Execution[Location | None] = Field(
        None,
        description="Folder of facts about the files, which runs may share; by default the run's own.",
    )
    fps: float = Field(8.0, gt=0, le=120, description="Frames are selected at this rate, by timestamp.")
    durations_s: tuple[_Seconds, ...] = Field(
        (1.0, 2.0), min_length=1, description="Clip lengths, used in turn along a long source."
    )
    every_s: _Seconds | None = Field(
        None,
        description="Interval at which clips begin, so that they may overlap; by default at the last one's "
        "end.",
    )
    letterbox: Literal["off", "crop"] = Field(
        "crop",
        description="crop: a clip excludes black bars that last throughout it. Otherwise the model would "
        "learn to generate them.",
    )
    min_side_px: int = Field(64, ge=8, description="Smaller sources, and pictures within bars, are dropped.")
    val_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Fraction of the source files held out for validation; above 0, at least one.",
    )
    val_names: tuple[str, ...] = Field(
        (),
        description="Patterns of the source names to hold out (`tower*`). They decide if any source matches, "
        "otherwise val_share does.",
    )
    decode_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Most processor time to decode a clip, or 64 consecutive frames; the wall time may be 20 "
        "times as much, as on a busy machine.",
    )
    decoder: Literal["pyav", "decord"] = Field(
        "pyav",
        description="decord: reads clips at their own size, from files in which it gives the same frames as "
        "PyAV. It takes 1.1 to 1.4 times as long.",
    )
    shots: ShotSettings = ShotSettings()
    filters: Filters = Filters()
    duplicates: Literal["keep", "exact", "near"] = Field(
        "near",
        description="Duplicates to drop: none; files with the same bytes; also clips with the same content, "
        "compressed, cropped, timed or mirrored differently.",
    )
    duplicates_bits: float = Field(
        6.0,
        ge=0,
        le=10,
        description="Most bits of 63 in which near-duplicates may differ, on average over their frames; the "
        "detail of a dropped clip has its number.",
    )
    duplicates_model: Location | None = Field(
        None,
        description="Local folder of a transformers image model (CLIP, SigLIP, DINOv2). Near-duplicates are "
        "then clips whose middle frames have similar embeddings: 6 bits are an angle of 17 degrees.",
    )

    @field_validator("captions")
    @classmethod
    def _is_a_table(cls, captions: str | None) -> str | None:
        if captions is None:
            return None
        table = captions.rstrip("/")
        if not table.lower().endswith((".parquet", ".csv")):
            raise ValueError("is no .parquet or .csv table")
        return table

    @field_validator("caption_fields")
    @classmethod
    def _some_weight(cls, weights: dict[str, float]) -> dict[str, float]:
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights are 0 or more, and one is more than 0, got {weights}")
        return weights
