"""Hashes of looks that survive copying."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

CROP_SHARE = 0.05  # how much of the width and the height a copy may have lost
_SIDE, _KEPT = 64, 8
_LOST = CROP_SHARE
# What each hash sees: left, top, right and bottom that a copy may have lost. Nothing; some on every side; a
# corner's two sides; and of colours, nothing.
BOXES = (
    (0.0, 0.0, 0.0, 0.0),
    (_LOST / 2, _LOST / 2, _LOST / 2, _LOST / 2),
    (_LOST, _LOST, 0.0, 0.0),
    (0.0, _LOST, _LOST, 0.0),
    (_LOST, 0.0, 0.0, _LOST),
    (0.0, 0.0, _LOST, _LOST),
    (0.0, 0.0, 0.0, 0.0),
)
WORDS = len(BOXES)  # hashes of a frame
N_LUMA = WORDS - 1  # of them of brightness; the last is of colours


def copy_hashes(frame: np.ndarray) -> np.ndarray:
    """The hashes of a frame (H W 3 or grey H W, uint8) that its copies share but for a few bits: int64 (7,).

    Six are of the brightness, in the whole frame and in five crops of it; the last is of the colours. A
    cropped copy's whole hash lies near one of the original's crops, which no hash of the whole alone does: of
    500 photos and film frames, cropped by 5 % at a corner and compressed again, 97 % differ in at most 6 of
    63 bits that way and in 19 the other. Different scenes differ in 14 or more, but for 3 pairs in 1,000,
    most of which are of one place. Colours tell two persons in the same place apart.

    A bit of brightness is the sign of one of the lowest 8 x 8 DCT coefficients of the 64 x 64 picture, faded
    out towards its borders, where a crop changes most. The mean's, the topmost bit, is always 0. Signs,
    unlike comparisons with a median (Zauner 2010, pHash), turn with the picture: `mirrored` needs no second
    look. Of colours, the lowest 4 x 4 of Cb and Cr have two bits each, positive and negative, both 0 where
    weak.
    """
    small = Image.fromarray(frame).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    planes = np.asarray(small.convert("YCbCr"), np.float64).transpose(2, 0, 1)
    low = _ROWS @ planes[0] @ _COLUMNS
    bits = low.reshape(N_LUMA, _KEPT * _KEPT) > 1e-6  # rounding errors are below, on any machine
    bits[:, 0] = False
    tints = (_TINT_ROWS @ planes[1:] @ _TINT_ROWS.T).reshape(2, -1)[:, 1:].ravel()
    tint_bits = np.zeros((2, 32), bool)
    tint_bits[:, -len(tints) :] = tints > _WEAK, tints < -_WEAK
    packed = np.packbits(np.concatenate([bits, tint_bits.reshape(1, 64)]), axis=1)
    return packed.view(">i8")[:, 0].astype(np.int64)


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """The hashes (..., 7) of frames seen in a mirror: odd horizontal cosines change their sign."""
    tints = hashes[..., N_LUMA:]
    odd = tints & (_TINT_MIRROR | _TINT_MIRROR << 32)
    swapped = (tints ^ odd) | (odd >> 32) | ((odd & _TINT_MIRROR) << 32)
    return np.concatenate([hashes[..., :N_LUMA] ^ _MIRROR, swapped], axis=-1)


def _faded_cosines(begin: float, end: float) -> np.ndarray:
    """The lowest DCT-II rows over the part of the side from begin to end, blind to the mean: 8 x 64."""
    place = ((np.arange(_SIDE) + 0.5) / _SIDE - begin) / (end - begin)
    fade = np.where((place > 0) & (place < 1), np.clip(2 * np.sin(np.pi * place), 0, 1), 0)
    rows = np.cos(np.pi * np.arange(_KEPT)[:, None] * place) * fade
    rows[1:] -= rows[1:].sum(axis=1, keepdims=True) / fade.sum() * fade
    return rows


_ROWS = np.stack([_faded_cosines(top, 1 - bottom) for _, top, _, bottom in BOXES[:N_LUMA]])
_COLUMNS = np.stack([_faded_cosines(left, 1 - right).T for left, _, right, _ in BOXES[:N_LUMA]])
_MIRROR = np.packbits(np.arange(_KEPT * _KEPT) % 2 == 1).view(">i8").astype(np.int64)[0]
_TINTS, _WEAK = 4, 0.15  # a colour wave of this amplitude, of 255, is lost in compression
_TINT_ROWS = _ROWS[0][:_TINTS] / np.linalg.norm(_ROWS[0][:_TINTS], axis=1, keepdims=True) / np.sqrt(_SIDE)
_TINT_MIRROR = int("".join(str(i % _TINTS % 2) for i in range(1, _TINTS**2)) * 2, 2)


@dataclass(frozen=True)
class Measure:
    """How hashes (int64, 7) are compared."""

    apart: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (m, 7), (m, 7): (m,), in bits
    n_keyed: int  # so many of the first may be nearly equal in duplicates, any to any
    mirror: np.int64  # the bits of these that change in a mirror


def _frames_apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.minimum(_unturned(ours, theirs), _unturned(mirrored(ours), theirs))


def _unturned(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    whole, other = ours[:, :1] ^ theirs[:, :N_LUMA], ours[:, :N_LUMA] ^ theirs[:, :1]
    # Column by column: for a row of six at a time numpy's own minimum takes several times as long.
    luma = functools.reduce(np.minimum, (*np.bitwise_count(whole).T, *np.bitwise_count(other).T))
    return luma + np.bitwise_count(ours[:, N_LUMA] ^ theirs[:, N_LUMA]) / np.float32(4)


FRAMES = Measure(_frames_apart, N_LUMA, _MIRROR)
"""Of `copy_hashes`, the nearer of a frame and its mirror image: in brightness the distance of the whole of
one from the nearest of the other, and a quarter of that in colours, where copies differ in up to 12 bits."""


def embedding_hashes(embeddings: np.ndarray) -> np.ndarray:
    """The sides of 7 x 63 random planes on which embeddings (N, D) lie: int64 (N, 7), the topmost bits 0.

    Two that stand at an angle a differ in a / pi of the bits, give or take 0.9 of 63 at an angle of 17
    degrees (Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms").
    """
    planes = np.random.default_rng(0).standard_normal((embeddings.shape[1], WORDS * 63))
    sides = (embeddings @ planes > 0).reshape(-1, WORDS, 63)
    padded = np.pad(sides, ((0, 0), (0, 0), (1, 0)))  # numpy counts the bits of a negative number's absolute
    return np.packbits(padded, axis=2).view(">i8")[..., 0].astype(np.int64)


def _embeddings_apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.bitwise_count(ours ^ theirs).mean(axis=1, dtype=np.float32)


EMBEDDINGS = Measure(_embeddings_apart, WORDS, np.int64(0))
"""Of `embedding_hashes`, the bits of 63 in which they differ; nothing is known of mirror images."""
