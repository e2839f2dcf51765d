"""Shots found in joined real footage."""

import itertools

import numpy as np
import pytest

from media import joined
from vitascope.clips.analysis.features import features
from vitascope.clips.analysis.shots import shots
from vitascope.clips.filters import ShotSettings

SEEDS = range(100, 104)  # others than the thresholds were chosen with


@pytest.fixture(scope="module")
def footage() -> list[np.ndarray]:
    return joined.footage()


def found(frames: np.ndarray, **settings: object) -> list[tuple[int, int]]:
    return shots(features(frames), ShotSettings(**settings), joined.FPS)  # type: ignore[arg-type]


def count(footage: list[np.ndarray], kind: str, speed: int = 1) -> tuple[int, int, int]:
    """The number of transitions, of those detected correctly, and of false detections."""
    total = right = wrong = 0
    for seed in SEEDS:
        made = joined.join(footage, kind, seed, speed=speed)
        gaps = [(a[1] + 1, b[0]) for a, b in itertools.pairwise(found(made.frames))]
        # Both are (first frame between, first frame after). They meet, or at a cut are equal.
        pairs = [(t, gap) for t in made.transitions for gap in gaps if t[0] <= gap[1] and gap[0] <= t[1]]
        if kind == "cut":
            pairs = [(t, gap) for t, gap in pairs if t[1] == gap[1]]
        right += len({t for t, _ in pairs})
        wrong += len(gaps) - len({gap for _, gap in pairs})
        total += len(made.transitions)
    return total, right, wrong


@pytest.mark.parametrize(
    ("kind", "speed", "recall", "precision"),
    [
        ("cut", 1, 1.0, 0.95),
        ("cut", 3, 0.9, 0.85),  # three times as fast: bikes shaken past the camera
        ("fade", 1, 0.97, 0.95),
        ("dissolve", 1, 0.9, 0.93),
    ],
)
def test_transitions_are_found(footage: list, kind: str, speed: int, recall: float, precision: float) -> None:
    total, right, wrong = count(footage, kind, speed)
    print(f"{kind} at speed {speed}: {right} of {total} found, {wrong} besides")
    assert total == 11 * len(SEEDS)
    assert right / total >= recall
    assert right / (right + wrong) >= precision


def test_no_shot_is_found_within_one(footage: list) -> None:
    for shot in footage:
        grid = shot[:: 25 // joined.FPS]
        assert found(grid) == [(0, len(grid) - 1)]


def test_frames_of_no_shot_are_left_out(footage: list) -> None:
    made = joined.join(footage, "fade", 7, n_shots=6)
    inside = np.zeros(len(made.frames), bool)
    for first, last in found(made.frames):
        inside[first : last + 1] = True
    black = made.frames.mean(axis=(1, 2, 3)) < 5
    assert black.any()
    assert not (inside & black).any()
    halfway = [(first + after) // 2 for first, after in made.transitions]
    assert not inside[halfway].any()


def test_a_flash_is_no_cut(footage: list) -> None:
    frames = footage[0][::3].copy()
    frames[20] = 255 - (255 - frames[20]) // 8
    assert found(frames) == [(0, len(frames) - 1)]


def test_dark_scenes_are_cut_too(footage: list) -> None:
    frames = np.concatenate([footage[0][:60:3], footage[6][:60:3]]) // 4
    assert found(frames) == [(0, 19), (20, 39)]


def test_a_source_is_one_shot_where_asked_or_where_nothing_else_is_left(footage: list) -> None:
    cut = np.concatenate([footage[0][:30:3], footage[6][:30:3]])
    assert found(cut, detect=False) == [(0, 19)]
    assert found(np.zeros((9, 36, 64, 3), np.uint8)) == [(0, 8)]
    assert found(cut[:1]) == [(0, 0)]
