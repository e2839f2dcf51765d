"""Settings of shots, and every score of a clip: its computation, limits and help.

A new score is a field of `Filters`; a new series of numbers for it is an entry of `clips.analysis.series`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from vitascope.section import Section

Use = Literal["off", "score", "drop"]
Series = Mapping[str, np.ndarray]
"""The series of a clip, (F,) each: `clips.analysis.series.SERIES`, and `jump` (`shots`)."""

STILL = 4.0  # of 255: H.264 (crf 28) changes a still picture's tiles by up to 3.4, motion one by 10 and more
BLACK = 0.04  # of 1; a black frame is no brighter, and has no more contrast
_BLURRED = 0.1  # a clip is as sharp as its blurred tenth


@dataclass(frozen=True)
class Score:
    """How a score is computed from the series of a clip; NaN if the clip has none.

    moving: it is about time, so one frame of the clip does not show it.
    per_second: the series is per frame; the score and its limits are per second.
    """

    of: Callable[[Series], Any]
    moving: bool = False
    per_second: bool = False


def is_black(series: Series) -> np.ndarray:
    """Whether each frame is black."""
    return (series["brightness"] < BLACK) & (series["contrast"] < BLACK)


def _mean(name: str) -> Callable[[Series], Any]:
    return lambda series: series[name].mean()


def _steps(name: str, of: Callable[[np.ndarray], Any]) -> Callable[[Series], Any]:
    """Of changes from frame to frame, without the first, whose previous frame is outside the clip."""
    return lambda series: of(series[name][1:]) if len(series[name]) > 1 else np.nan


def _mean_of_finite(name: str) -> Callable[[Series], Any]:
    def mean(series: Series) -> Any:
        finite = series[name][np.isfinite(series[name])]
        return finite.mean() if len(finite) else np.nan

    return mean


class ShotSettings(Section):
    """Shot detection, so that no clip spans two shots."""

    detect: bool = Field(True, description="Detect shots; if false, a source is one shot.")
    cut_change: float = Field(
        0.55,
        gt=0,
        description="Least difference of a frame from the one before at a cut, apart from motion, relative "
        "to the picture's contrast.",
    )
    cut_ratio: float = Field(
        2.0,
        ge=1,
        description="Least ratio of that difference to those of its neighbours within half a second.",
    )
    dissolves: bool = Field(True, description="Also cut out dissolves from one shot to another.")


class Filter(Section):
    """The use of a score. Clips without that score (an image has no motion) pass."""

    use: Use = Field("score", description="off: no score; score: a column; drop: clips beyond min or max.")
    min: float | None = Field(None, description="Clips with a lower score are dropped.")
    max: float | None = Field(None, description="Clips with a higher score are dropped.")

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
    """A score of each clip's middle frame by your own function."""

    use: Use = Field("off", description="off: not computed; score: a column; drop: clips beyond min or max.")
    function: str | None = Field(
        None, description="`module:function`; from frames (N H W 3, uint8) to scores (N,); see clips.hooks."
    )
    options: dict[str, str | float] = Field({}, description="Further keyword arguments of the function.")

    @model_validator(mode="after")
    def _some_function(self) -> "HookFilter":
        if self.use != "off" and not (self.function and self.function.count(":") == 1):
            raise ValueError(f'function is `module:function`, got {self.function!r}; set it, or use = "off"')
        return self


def reason(name: str) -> str:
    """The ledger's reason for a clip beyond the limits of a score."""
    return f"filter_{name}"


def _drop(**limits: float) -> Any:
    return Filter(use="drop", **limits)


def _score(**limits: float) -> Any:
    return Filter(use="score", **limits)


class Filters(Section):
    """Every score, and its limits for dropping clips: the first that fails is the reason.

    A partial table keeps the rest of the score's default: `motion = {use = "drop"}` keeps the limit below.
    By default only clearly broken clips are dropped.
    """

    width: Filter = Field(_score(), description="In pixels, upright, within black bars.")
    height: Filter = Field(_score(), description="In pixels, upright, within black bars.")
    duration_s: Filter = Field(_score(), description="In seconds; images have none.")
    black_share: Annotated[Filter, Score(lambda series: is_black(series).mean(), moving=True)] = Field(
        _drop(max=0.5), description="Fraction of the frames that are black."
    )
    still_share: Annotated[
        Filter, Score(_steps("peak_change", lambda steps: (steps <= STILL).mean()), moving=True)
    ] = Field(_drop(max=0.95), description="Fraction of the steps without a change: repeated frames.")
    contrast: Annotated[Filter, Score(_mean("contrast"))] = Field(
        _drop(min=0.004), description="Standard deviation of grey, from 0 to 1; below 1/255, a flat colour."
    )
    brightness: Annotated[Filter, Score(_mean("brightness"))] = Field(
        _score(min=0.05, max=0.95), description="Mean grey, from 0 to 1."
    )
    saturation: Annotated[Filter, Score(_mean("saturation"))] = Field(
        _score(), description="Mean saturation, from 0 to 1."
    )
    sharpness: Annotated[Filter, Score(lambda series: np.quantile(series["sharpness"], _BLURRED))] = Field(
        _score(min=20), description="Variance of the Laplacian at 256 px, of the clip's most blurred tenth."
    )
    motion: Annotated[Filter, Score(_steps("motion", np.mean), moving=True, per_second=True)] = Field(
        _score(min=0.002, max=0.8), description="Mean optical flow, in diagonals per second."
    )
    max_change: Annotated[Filter, Score(_steps("jump", np.max), moving=True)] = Field(
        _score(max=0.55),
        description="Largest change from frame to frame, apart from motion, relative to the picture's "
        "contrast.",
    )
    combing: Annotated[Filter, Score(_mean_of_finite("combing"))] = Field(
        _score(max=0.003),
        description="Fraction of the pixels with combing: interlaced footage that is not flagged as such. "
        "Flagged footage is deinterlaced. Progressive footage stays below 0.0001, except for fine horizontal "
        'lines, such as a facade\'s: hence a score, and only with use = "drop" a reason to drop.',
    )
    text: HookFilter = Field(HookFilter(), description="Amount of text over the picture.")
    watermark: HookFilter = Field(HookFilter(), description="Probability of a watermark.")
    aesthetic: HookFilter = Field(HookFilter(), description="Aesthetic quality.")

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


SCORES = {
    name: score
    for name, field in Filters.model_fields.items()
    for score in field.metadata
    if isinstance(score, Score)
}
"""The scores computed from series, by name; each is a float32 column of the clips table."""

HOOKS = tuple(name for name, field in Filters.model_fields.items() if field.annotation is HookFilter)
"""The scores given by a user's own functions; float32 columns too."""
