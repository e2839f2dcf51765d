"""Spans within shots, and the split."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vitascope.records import stable_int

_SLACK_S = 1e-6  # containers store durations in whole ticks, so 2 s may read 1.9999999


@dataclass(frozen=True)
class Span:
    """A span of a source: its frames are at start_s, start_s + 1/fps, … up to and including end_s."""

    start_s: float
    end_s: float
    n_frames: int


def spans(
    shots: Iterable[tuple[int, int]], fps: float, durations_s: Sequence[float], every_s: float | None = None
) -> list[Span]:
    """Cuts each shot from its beginning into spans, taking `durations_s` in turn.

    Shots are given by their first and last frame on the grid of `fps`, and spans lie on that grid. If the
    next duration does not fit, the longest one that fits is taken; a shot shorter than all durations is one
    span. A span of d seconds has floor(d * fps) + 1 frames, both ends included, as codecs take 1 + k * stride
    frames; the last frame of a span is the first of the next. With `every_s` a span begins
    at that interval, and spans overlap. A remainder shorter than every duration is not used.
    """
    lengths = [steps(length_s, fps) for length_s in durations_s]
    every = max(steps(every_s, fps), 1) if every_s else None
    cuts = (cut for first, last in shots for cut in _cut(first, last, lengths, every))
    return [Span(start / fps, (start + steps) / fps, steps + 1) for start, steps in cuts]


def _cut(first: int, last: int, lengths: Sequence[int], every: int | None) -> list[tuple[int, int]]:
    """Start and length of each span of a shot, in steps of the grid."""
    cut: list[tuple[int, int]] = []
    start = first
    while True:
        wanted = lengths[len(cut) % len(lengths)]
        longest_first = sorted(lengths, reverse=True)
        length = next((n for n in (wanted, *longest_first) if n <= last - start), None)
        if length is None:
            return cut or [(first, last - first)]
        cut.append((start, length))
        start += every or max(length, 1)


def steps(length_s: float, fps: float) -> int:
    """Number of steps of the grid within a duration."""
    return math.floor(length_s * fps + _SLACK_S)


def splits(
    names: Collection[str], usable: Iterable[str], val_share: float, val_names: Sequence[str] = ()
) -> dict[str, str]:
    """train or val for each source of `names`: val if a hash of the name falls below `val_share`.

    If any name matches one of the patterns `val_names` (`tower*`), they alone decide. If `val_share` > 0 and
    two or more sources are `usable` (have a good clip), each split gets one: the usable source with the
    smallest hash is in validation, the one with the largest in training. Names are relative to the input, so
    a source stays in its split if the folder moves or the file is encoded again.
    """
    held_out = {name for name in names if any(fnmatchcase(name, pattern) for pattern in val_names)}
    if held_out:
        return {name: "val" if name in held_out else "train" for name in names}
    split = {name: "val" if _draw(name) < val_share else "train" for name in names}
    ranked = sorted(usable, key=_draw)
    if val_share > 0 and len(ranked) >= 2:
        split[ranked[0]], split[ranked[-1]] = "val", "train"
    return split


def _draw(name: str) -> float:
    """A number in [0, 1) derived from the name."""
    return stable_int("split", name) / 2**63
