"""Shot boundaries, from the series of `features`.

All numbers below were chosen on real footage joined by cuts, dissolves and fades (tests/clips/test_shots.py).
"""

from collections.abc import Mapping

import numpy as np

from vitascope.clips.analysis.phash import distances
from vitascope.clips.filters import ShotSettings, is_black

_AROUND_S = 0.5  # the neighbourhood in which a cut stands out
_CUT_BITS, _SAME_BITS = 14, 10  # of 64: at least so many differ at a cut; at most so many within one picture
_FLASH = 2  # frames; the same picture continues after a flash
_FADE_STEP, _FADE_S = 0.04, 2.0  # brightness gained in every frame of a fade, as a fraction; longest fade
_DISSOLVE_HALVES_S = (0.25, 0.375, 0.5, 0.75)
_DISSOLVE_SHARPNESS, _DISSOLVE_CONTRAST = 0.75, 0.8  # in the middle of a dissolve, of the mean of its ends
_DISSOLVE_BITS = 18  # of 64, between the ends of a dissolve
_DISSOLVE_CHANGE_PER_S, _DISSOLVE_MOTION_PER_S = 1.2, 0.24  # at least; at most, otherwise it is a whip pan


def shots(series: Mapping[str, np.ndarray], settings: ShotSettings, fps: float) -> list[tuple[int, int]]:
    """First and last index of every shot, ascending; `series` are those of `features` at `fps`.

    Black frames, fades from and to black, and dissolves belong to no shot. A source with nothing else is one
    shot, left to the filters.
    """
    n = len(series["brightness"])
    whole = [(0, n - 1)]
    if not settings.detect or n < 2:
        return whole
    jumps = change_beyond_motion(series)
    cuts = _cuts(jumps, series["phash"], settings, fps)
    outside = _fades(series, fps)
    if settings.dissolves:
        outside = outside | _dissolves(series, jumps, cuts | outside, fps)
    begins = ~outside & (cuts | np.r_[True, outside[:-1]])
    ends = ~outside & np.r_[cuts[1:] | outside[1:], True]
    return list(zip(np.flatnonzero(begins).tolist(), np.flatnonzero(ends).tolist(), strict=True)) or whole


def change_beyond_motion(series: Mapping[str, np.ndarray]) -> np.ndarray:
    """The residual (F,) as a fraction of the picture's contrast: about 1 at a cut, even in dark scenes.

    Within a shot it is below 0.5 if the flow can follow. PySceneDetect's measure, which ignores motion, does
    not separate cuts from fast motion at 8 frames/s.
    """
    contrast = series["contrast"].astype(np.float64)
    between = (contrast + np.r_[contrast[:1], contrast[:-1]]) / 2
    return series["residual"].astype(np.float64) / 255 / (between + 4 / 255)  # 4: noise of flat frames


def _cuts(jumps: np.ndarray, hashes: np.ndarray, settings: ShotSettings, fps: float) -> np.ndarray:
    """Whether each frame begins a shot with a hard cut.

    As in PySceneDetect's AdaptiveDetector, a cut stands out from its neighbours; here from their median, so
    that two cuts close to each other do not hide each other.
    """
    cuts = np.zeros(len(jumps), bool)
    differ = np.r_[0, distances(hashes[1:], hashes[:-1])]
    around = max(round(_AROUND_S * fps), 2)
    for i in np.flatnonzero((jumps >= settings.cut_change) & (differ >= _CUT_BITS)).tolist():
        near = np.r_[jumps[max(i - around, 1) : i], jumps[i + 1 : i + 1 + around]]
        cuts[i] = not len(near) or jumps[i] >= settings.cut_ratio * np.median(near)
    for i in np.flatnonzero(cuts).tolist():
        for j in range(i + 1, min(i + _FLASH + 1, len(cuts))):
            if cuts[j] and distances(hashes[i - 1 : i], hashes[j : j + 1])[0] <= _SAME_BITS:
                cuts[[i, j]] = False
    return cuts


def _fades(series: Mapping[str, np.ndarray], fps: float) -> np.ndarray:
    """Whether each frame is black, or part of a fade from or to black."""
    brightness = series["brightness"].astype(np.float64)
    black = is_black(series)
    after = _rises(brightness, black, round(_FADE_S * fps))
    before = _rises(brightness[::-1], black[::-1], round(_FADE_S * fps))[::-1]
    return black | after | before


def _rises(brightness: np.ndarray, black: np.ndarray, longest: int) -> np.ndarray:
    """Whether each frame is part of a rise from a preceding black frame."""
    rising = np.zeros(len(black), bool)
    for start in (np.flatnonzero(black[:-1] & ~black[1:]) + 1).tolist():
        for i in range(start, min(start + longest, len(black) - 1)):
            if black[i] or brightness[i + 1] - brightness[i] < _FADE_STEP * brightness[i + 1]:
                break
            rising[i] = True
    return rising


def _dissolves(
    series: Mapping[str, np.ndarray], jumps: np.ndarray, breaks: np.ndarray, fps: float
) -> np.ndarray:
    """Whether each frame shows two shots at once.

    An even mix of two pictures has about half the mean squared contrast and half the mean sharpness of both
    (Lienhart 1999, "Comparison of Automatic Shot Boundary Detection Algorithms"). Also, the pictures at its
    ends differ, and the change is not the motion of a pan.
    """
    sharpness, contrast, motion = (series[k].astype(np.float64) for k in ("sharpness", "contrast", "motion"))
    mixed = np.zeros(len(jumps), bool)
    for half in sorted({max(round(half_s * fps), 2) for half_s in _DISSOLVE_HALVES_S}):
        middle = np.arange(half, len(jumps) - half)
        first, last = middle - half, middle + half
        hit = (
            (_mean(breaks, first, last) == 0)
            & (_dip(sharpness, half) < _DISSOLVE_SHARPNESS)
            & (_dip(contrast**2, half) < _DISSOLVE_CONTRAST)
            & (distances(series["phash"][first], series["phash"][last]) >= _DISSOLVE_BITS)
            & (_mean(jumps, first, last) >= _DISSOLVE_CHANGE_PER_S / fps)
            & (_mean(motion, first, last) <= _DISSOLVE_MOTION_PER_S / fps)
        )
        for start in first[hit]:
            mixed[start + 1 : start + 2 * half] = True
    return mixed


def _mean(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The means of `values` after `first` up to and including `last`."""
    sums = np.r_[0.0, np.cumsum(values)]
    return (sums[last + 1] - sums[first + 1]) / (last - first)


def _dip(values: np.ndarray, half: int) -> np.ndarray:
    """The middle of every window as a fraction of the mean of its ends."""
    ends = (values[: -2 * half] + values[2 * half :]) / 2
    return values[half:-half] / np.maximum(ends, 1e-9)
