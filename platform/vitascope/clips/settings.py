"""Settings of the clips stage."""

from typing import Annotated

from pydantic import Field

from vitascope.section import Section

_Seconds = Annotated[float, Field(ge=0.01)]  # so that a long source ends in a bounded number of clips


class ClipsSettings(Section):
    """Which files go in, and how they are cut."""

    input: str | None = Field(
        None,
        description="Folder or bucket of videos, images and caption sidecars; must be set, but for the "
        "demo, which puts media of its own into <run.folder>/input where it is not.",
    )
    captions: str | None = Field(
        None, description="Parquet or CSV table with the columns name and caption; sidecar files win over it."
    )
    fps: float = Field(8.0, gt=0, le=120, description="Frames are picked at this rate, by timestamp.")
    durations_s: tuple[_Seconds, ...] = Field(
        (1.0, 2.0), min_length=1, description="Clip lengths, taken in turn along a long source."
    )
    every_s: _Seconds | None = Field(
        None, description="A clip begins so often, overlapping others; by default where one ends."
    )
    min_side_px: int = Field(64, ge=8, description="Smaller sources are dropped.")
    val_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the source files held out for validation; above 0, at least one.",
    )
    val_names: tuple[str, ...] = Field(
        (),
        description="Patterns of the source names to hold out (`tower*`). They decide where any source "
        "matches, else val_share does.",
    )
    decode_timeout_s: float = Field(
        60.0, gt=0, description="Longest time one clip may take to decode, or one file to probe."
    )
