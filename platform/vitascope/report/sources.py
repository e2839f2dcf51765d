"""Where clips come from, and what each source contributes."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vitascope.report.dataset import Dataset, Floats, Ints, labels, numbers
from vitascope.report.fill import Samples

FAR = 2.0
"""A source has too much or too little from so many times an equal share on, or below its inverse."""


@dataclass(frozen=True, eq=False)
class Sources:
    """The sources by name, and of each (S,): files, clips that are kept, and fractions of the whole.

    input_share: of the seconds of the files that can be used, or of all files if those have none.
    clip_share, second_share, token_share: of what is kept of them. by: whether a source is a folder or a
    file.
    """

    names: list[str]
    by: str
    files: Ints
    clips: Ints
    input_share: Floats
    clip_share: Floats
    second_share: Floats
    token_share: Floats

    @property
    def equal(self) -> float:
        """The fraction of each, if all had the same."""
        return 1 / max(1, len(self.names))

    @property
    def order(self) -> list[int]:
        """Rows by their fraction of the tokens."""
        return np.lexsort((-self.clips, -self.token_share)).tolist()

    @property
    def over(self) -> list[int]:
        """Rows with at least twice their equal part of the tokens; three quarters of two or three."""
        return [i for i in self.order if self.token_share[i] >= min(FAR * self.equal, 0.75)]

    @property
    def under(self) -> list[int]:
        """Rows with half of an equal share or less; those first of which most went in."""
        return _first(self.input_share, self.token_share <= self.equal / FAR)

    @property
    def lost(self) -> list[int]:
        """Rows with half of their fraction of the input, or less, among the tokens, or with no clip kept.

        The greatest loss first. Files that cannot be read have no seconds: of a source without a clip its
        fraction of the files counts, if that is more.
        """
        gone = self.clips == 0
        of_files = np.where(gone, _fractions(self.files.astype(np.float64)), 0)
        loss = np.maximum(self.input_share - self.token_share, of_files)
        return _first(loss, gone | ((self.token_share <= self.input_share / FAR) & (loss > 0)))


def _first(weight: Floats, chosen: np.ndarray) -> list[int]:
    """The chosen rows by falling weight."""
    return [i for i in np.argsort(-weight, kind="stable").tolist() if chosen[i]]


def sources(data: Dataset, samples: Samples) -> Sources:
    """The top-level folders of the files' names; the files themselves if they are not in two folders."""
    of_video, of_clip = (_folders(table["name"]) for table in (data.videos, data.clips))
    by = "folder"
    if len(pc.unique(of_video)) < 2:
        of_video, of_clip, by = data.videos["name"], data.clips["name"], "file"
    names, video = labels(of_video)
    clip = np.asarray(pc.fill_null(pc.index_in(of_clip, pa.array(names, pa.string())), -1), np.int64)

    def total(rows: Ints, weights: Floats | None = None) -> Floats:
        known = rows >= 0
        some = None if weights is None else np.nan_to_num(weights[known])
        return np.bincount(rows[known], some, len(names)).astype(np.float64)

    kept = np.where(data.good, clip, -1)
    seconds = np.where(data.good_videos, numbers(data.videos, "duration_s"), 0)
    went_in = total(video, seconds)
    return Sources(
        names=names,
        by=by,
        files=total(video).astype(np.int64),
        clips=total(kept).astype(np.int64),
        input_share=_fractions(went_in if went_in.any() else total(video)),
        clip_share=_fractions(total(kept)),
        second_share=_fractions(total(kept, data.seconds)),
        token_share=_fractions(total(clip[samples.clip], samples.tokens.astype(np.float64))),
    )


def _folders(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first part of each name; nothing for files of the top level."""
    return pc.replace_substring_regex(names, r"(?s)^(?:([^/]*)/.*|[^/]*)$", r"\1")


def _fractions(values: Floats) -> Floats:
    return values / max(values.sum(), 1e-30)
