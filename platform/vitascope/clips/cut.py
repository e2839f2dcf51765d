"""Spans and split, from probe results."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vitascope.records import stable_int

_SLACK_S = 1e-6  # durations are read from containers in whole ticks, so 2 s may read 1.9999999


@dataclass(frozen=True)
class Span:
    """A stretch of a source: frames are picked at start_s, start_s + 1/fps, … up to and with end_s."""

    start_s: float
    end_s: float
    n_frames: int


def spans(
    duration_s: float, fps: float, durations_s: Sequence[float], every_s: float | None = None
) -> list[Span]:
    """Cuts a source from its beginning into spans, taking `durations_s` in turn.

    Where the next duration does not fit, the longest that does is taken; a source too short for all gives
    one span of all it has. A still image (duration 0) gives one span of one frame. A span of d seconds
    gives floor(d * fps) + 1 frames, both ends included, so that 1 s at 8 fps is the 1 + 4k frames of a
    codec; the last frame of a span is the first of the next. With `every_s` one begins so often, and spans
    overlap. A rest shorter than every duration is left.
    """
    cut: list[Span] = []
    start_s = 0.0
    while True:
        rest_s = duration_s - start_s + _SLACK_S
        wanted_s = durations_s[len(cut) % len(durations_s)]
        longest_first = sorted(durations_s, reverse=True)
        length_s = next((d for d in (wanted_s, *longest_first) if d <= rest_s), None)
        if length_s is None:
            break
        cut.append(_span(start_s, length_s, fps))
        start_s += every_s or length_s
    return cut or [_span(0.0, duration_s, fps)]


def _span(start_s: float, length_s: float, fps: float) -> Span:
    intervals = math.floor(length_s * fps + _SLACK_S)
    return Span(start_s, start_s + intervals / fps, intervals + 1)


def splits(
    names: Collection[str], usable: Iterable[str], val_share: float, val_names: Sequence[str] = ()
) -> dict[str, str]:
    """train or val for each source of `names`: val where a hash of the name falls below `val_share`.

    Where any name matches one of `val_names`, patterns such as `tower*`, they alone decide. Where the share
    leaves no `usable` source (one with a good clip) for validation although `val_share` > 0 and there are two
    or more, the usable one with the smallest hash goes there; where it leaves none for training, the one with
    the largest hash goes back. Names are relative to the input, so a source stays in its split wherever the
    folder lies and however often its file is encoded again.
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
    """A number in [0, 1) that belongs to the name."""
    return stable_int("split", name) / 2**63
