"""Settings of shots, scores and filters."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vitascope.section import Section

Use = Literal["off", "score", "drop"]


class ShotSettings(Section):
    """Where a source is cut, so that no clip spans two shots."""

    detect: bool = Field(True, description="Find shots; if false, a source is one shot.")
    cut_change: float = Field(
        0.55,
        gt=0,
        description="A cut is where a frame differs so much from the one before, motion aside, in shares of "
        "the picture's contrast.",
    )
    cut_ratio: float = Field(
        2.0, ge=1, description="And so many times as much as its neighbours within half a second."
    )
    dissolves: bool = Field(True, description="Cut out dissolves too, where one shot turns into another.")


class Filter(Section):
    """What is done with a score. Clips without that score (an image has no motion) pass."""

    use: Use = Field("score", description="off: no score; score: a column; drop: clips beyond min or max.")
    min: float | None = Field(None, description="Lower ones are dropped.")
    max: float | None = Field(None, description="Higher ones are dropped.")

    @model_validator(mode="after")
    def _some_limit(self) -> "Filter":
        if self.use == "drop" and self.min is None and self.max is None:
            raise ValueError('use = "drop" needs a limit, got none; set min or max, or use = "score"')
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; nothing would pass")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """`min` and `max`, if they are set."""
        return {key: limit for key in ("min", "max") if (limit := getattr(self, key)) is not None}


def beyond(values: npt.ArrayLike, limits: Mapping[str, float]) -> npt.NDArray[np.bool_]:
    """Which values are below `min` or above `max`; NaN is neither.

    Compared in float32, as the scores are, so that 0.95 is not below 0.95.
    """
    single = np.asarray(values, np.float32)
    low, high = (np.float32(limits.get(key, np.nan)) for key in ("min", "max"))
    return (single < low) | (single > high)


class HookFilter(Filter):
    """A score that a function of your own gives each clip's middle frame."""

    use: Use = Field("off", description="off: not computed; score: a column; drop: clips beyond min or max.")
    function: str | None = Field(
        None, description="`module:function`; from frames (N H W 3, uint8) to scores (N,); see clips.hooks."
    )
    options: dict[str, str | float] = Field(
        {}, description="What the function takes besides, as keyword arguments."
    )

    @model_validator(mode="after")
    def _some_function(self) -> "HookFilter":
        if self.use != "off" and not (self.function and self.function.count(":") == 1):
            raise ValueError(f'function is `module:function`, got {self.function!r}; set it, or use = "off"')
        return self


def _drop(**limits: float) -> Any:
    return Filter(use="drop", **limits)


def _score(**limits: float) -> Any:
    return Filter(use="score", **limits)


class Filters(Section):
    """Every score, and which clips are dropped for it: the first that fails is the reason.

    A partial table keeps the rest of the score's default: `motion = {use = "drop"}` keeps the limit below.
    By default only what is certainly broken is dropped.
    """

    width: Filter = Field(_score(), description="In pixels, upright, within black bars.")
    height: Filter = Field(_score(), description="In pixels, upright, within black bars.")
    duration_s: Filter = Field(_score(), description="In seconds; images have none.")
    black_share: Filter = Field(_drop(max=0.5), description="Share of the frames that are black.")
    still_share: Filter = Field(
        _drop(max=0.95), description="Share of the steps that change nothing: repeated frames."
    )
    contrast: Filter = Field(
        _drop(min=0.004), description="Standard deviation of grey, of 1; below 1 of 255, a flat colour."
    )
    brightness: Filter = Field(_score(min=0.05, max=0.95), description="Mean grey, of 1.")
    saturation: Filter = Field(_score(), description="Mean saturation, of 1.")
    sharpness: Filter = Field(
        _score(min=20), description="Variance of the Laplacian at 256 px, of the clip's blurred tenth."
    )
    motion: Filter = Field(
        _score(min=0.002, max=0.8), description="Mean optical flow, in shares of the diagonal per second."
    )
    max_change: Filter = Field(
        _score(max=0.55),
        description="Largest jump from frame to frame, motion aside, in shares of the picture's contrast.",
    )
    combing: Filter = Field(
        _score(max=0.003),
        description="Share of the pixels that look like a comb: interlaced footage that does not say so. "
        "Footage that does is deinterlaced. Progressive footage stays below 0.0001, but for fine horizontal "
        'lines, such as a facade\'s: hence a score, and only with use = "drop" a reason to drop.',
    )
    text: HookFilter = Field(HookFilter(), description="How much text lies over the picture.")
    watermark: HookFilter = Field(HookFilter(), description="How likely it bears a watermark.")
    aesthetic: HookFilter = Field(HookFilter(), description="How good it looks.")

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {name: field.default.model_dump() for name, field in cls.model_fields.items()}
        return {k: known.get(k, {}) | v if isinstance(v, dict) else v for k, v in data.items()}

    def used(self) -> Iterator[tuple[str, Filter]]:
        """The filters that are not off, by name."""
        yield from ((name, f) for name in type(self).model_fields if (f := getattr(self, name)).use != "off")
