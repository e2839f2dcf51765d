"""The series of numbers that describe the frames of a file.

They are declared once, with dtype and width, for the analysis and the catalog.
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
    """How a series is stored: its dtype, and its number of values for a frame."""

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
"""The series that `features` computes."""

SERIES = FEATURES | {
    "copy_hashes": Kind(np.int64, len(BOXES)),
    "combing": Kind(),  # NaN for frames that were not checked
    "sides": Kind(np.int32, 2),  # height and width as displayed
}
"""All series of a file."""

CATALOG = pa.schema(
    [
        *VIDEOS,
        pa.field("again", pa.bool_(), nullable=False),  # failed for now: to be scanned again
        pa.field("said_s", pa.float64()),  # duration by its headers, if its packets end earlier
        *(pa.field(name, pa.list_(pa.from_numpy_dtype(kind.dtype))) for name, kind in SERIES.items()),
    ]
)
"""One row a file: table.VIDEOS and the series, flattened."""


def missing(n_frames: int) -> Series:
    """The series of `n_frames` damaged frames."""
    return {name: kind.missing(n_frames) for name, kind in SERIES.items()}


def joined(parts: list[Series]) -> Series:
    """The series of consecutive stretches as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in SERIES}


def columns(series: Series) -> Series:
    """The series as columns of a row of CATALOG, flattened."""
    return {name: values.ravel() for name, values in series.items()}


def of_row(row: Mapping[str, Any]) -> Series:
    """The series in a row of CATALOG."""
    flat = {name: np.asarray(row[name], kind.dtype) for name, kind in SERIES.items()}
    return {name: v.reshape(-1, w) if (w := SERIES[name].width) > 1 else v for name, v in flat.items()}
