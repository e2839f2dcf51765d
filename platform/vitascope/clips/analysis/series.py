"""The series of numbers that describe a file's frames.

One list declares them: dtype and numbers a frame, for the analysis and for the catalog alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike

from vitascope.clips.dedup.hashing import BOXES
from vitascope.clips.table import VIDEOS

Series = dict[str, np.ndarray]
"""Numbers (F,) of frames, or (F, width), on the grid of clips.fps; NaN, or 0 of integers, if damaged."""


@dataclass(frozen=True)
class Kind:
    """How a series is kept: its dtype, and how many numbers it has a frame."""

    dtype: DTypeLike = np.float16
    width: int = 1

    def missing(self, n_frames: int) -> np.ndarray:
        """The series of damaged frames."""
        shape = (n_frames, self.width) if self.width > 1 else (n_frames,)
        return np.full(shape, 0 if np.issubdtype(self.dtype, np.integer) else np.nan, self.dtype)


FEATURES = {
    "change": Kind(),
    "peak_change": Kind(),
    "motion": Kind(),
    "residual": Kind(),
    "brightness": Kind(),
    "contrast": Kind(),
    "saturation": Kind(),
    "sharpness": Kind(),
    "bars": Kind(width=4),
    "phash": Kind(np.int64),
}
"""What `features` computes of frames that follow each other."""

SERIES = FEATURES | {
    "copy_hashes": Kind(np.int64, len(BOXES)),
    "combing": Kind(),  # NaN of frames that were not looked at
    "sides": Kind(np.int32, 2),  # height and width as displayed
}
"""All series of a file."""

CATALOG = pa.schema(
    [
        *VIDEOS,
        pa.field("again", pa.bool_(), nullable=False),  # it was the store that failed: to be looked at again
        pa.field("said_s", pa.float64()),  # duration by its headers, if its packets end earlier
        *(pa.field(name, pa.list_(pa.from_numpy_dtype(kind.dtype))) for name, kind in SERIES.items()),
    ]
)
"""What is known of every file: table.VIDEOS, and its series, flat."""


def missing(n_frames: int) -> Series:
    """The series of so many damaged frames."""
    return {name: kind.missing(n_frames) for name, kind in SERIES.items()}


def joined(parts: list[Series]) -> Series:
    """The series of stretches that follow each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in SERIES}


def columns(series: Series) -> Series:
    """The series as columns of a row of CATALOG: flat."""
    return {name: values.ravel() for name, values in series.items()}


def of_row(row: Mapping[str, Any]) -> Series:
    """The series in a row of CATALOG."""
    flat = {name: np.asarray(row[name], kind.dtype) for name, kind in SERIES.items()}
    return {name: v.reshape(-1, w) if (w := SERIES[name].width) > 1 else v for name, v in flat.items()}
