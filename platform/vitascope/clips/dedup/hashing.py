"""Perceptual hashes that copies share."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

CROP_FRACTION = 0.05  # of the width and the height that a cropped copy may lack
_SIDE, _KEPT = 64, 8
_LOST = CROP_FRACTION
# The crop of each hash, as fractions removed at left, top, right and bottom: none; some on every side; the
# two sides of each corner; and none for the hash of colours.
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
N_LUMA = WORDS - 1  # of brightness; the last hash is of colours


def copy_hashes(frame: np.ndarray) -> np.ndarray:
    """Hashes int64 (7,) of a frame (H W 3 or grey H W, uint8); those of its copies differ in few bits.

    Six hash the brightness of the whole frame and of five crops; the last hashes the colours. The whole-frame
    hash of a cropped copy is near that of one of the original's crops: of 500 photos and video frames,
    cropped by 5 % at a corner and compressed again, 97 % differ in at most 6 of 63 bits from the nearest
    crop, but in up to 19 from the whole frame. Different scenes differ in 14 bits or more, except 3 pairs in
    1,000, most of which show one place. Colours separate two persons in the same place.

    A bit of brightness is the sign of one of the lowest 8 x 8 DCT coefficients of the 64 x 64 picture, faded
    out towards its borders, where a crop changes most. The topmost bit, of the mean, is always 0. Signs can
    be mirrored without the picture (`mirrored`), unlike comparisons with a median (Zauner 2010, pHash). Of
    the colours, the lowest 4 x 4 coefficients of Cb and Cr have two bits each, positive and negative, both 0
    if weak.
    """
    small = Image.fromarray(frame).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    planes = np.asarray(small.convert("YCbCr"), np.float64).transpose(2, 0, 1)
    low = _ROWS @ planes[0] @ _COLUMNS
    bits = low.reshape(N_LUMA, _KEPT * _KEPT) > 1e-6  # above the rounding errors of any machine
    bits[:, 0] = False
    tints = (_TINT_ROWS @ planes[1:] @ _TINT_ROWS.T).reshape(2, -1)[:, 1:].ravel()
    tint_bits = np.zeros((2, 32), bool)
    tint_bits[:, -len(tints) :] = tints > _WEAK, tints < -_WEAK
    packed = np.packbits(np.concatenate([bits, tint_bits.reshape(1, 64)]), axis=1)
    return packed.view(">i8")[:, 0].astype(np.int64)


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """The hashes (..., 7) of the mirrored frames: odd horizontal cosines change their sign."""
    tints = hashes[..., N_LUMA:]
    odd = tints & (_TINT_MIRROR | _TINT_MIRROR << 32)
    swapped = (tints ^ odd) | (odd >> 32) | ((odd & _TINT_MIRROR) << 32)
    return np.concatenate([hashes[..., :N_LUMA] ^ _MIRROR, swapped], axis=-1)


def _faded_cosines(begin: float, end: float) -> np.ndarray:
    """The lowest DCT-II rows over the part of a side from begin to end, orthogonal to the mean: 8 x 64."""
    place = ((np.arange(_SIDE) + 0.5) / _SIDE - begin) / (end - begin)
    fade = np.where((place > 0) & (place < 1), np.clip(2 * np.sin(np.pi * place), 0, 1), 0)
    rows = np.cos(np.pi * np.arange(_KEPT)[:, None] * place) * fade
    rows[1:] -= rows[1:].sum(axis=1, keepdims=True) / fade.sum() * fade
    return rows


_ROWS = np.stack([_faded_cosines(top, 1 - bottom) for _, top, _, bottom in BOXES[:N_LUMA]])
_COLUMNS = np.stack([_faded_cosines(left, 1 - right).T for left, _, right, _ in BOXES[:N_LUMA]])
_MIRROR = np.packbits(np.arange(_KEPT * _KEPT) % 2 == 1).view(">i8").astype(np.int64)[0]
_TINTS, _WEAK = 4, 0.15  # coefficients; a colour amplitude, of 255, that compression removes
_TINT_ROWS = _ROWS[0][:_TINTS] / np.linalg.norm(_ROWS[0][:_TINTS], axis=1, keepdims=True) / np.sqrt(_SIDE)
_TINT_MIRROR = int("".join(str(i % _TINTS % 2) for i in range(1, _TINTS**2)) * 2, 2)


@dataclass(frozen=True)
class Measure:
    """How hashes (int64, 7) are compared."""

    apart: Callable[[np.ndarray, np.ndarray], np.ndarray]  # (m, 7), (m, 7): (m,), in bits
    n_keyed: int  # the first n hashes, any of which may match any other in a duplicate
    mirror: np.int64  # the bits of these that mirroring flips


def _frames_apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.minimum(_unturned(ours, theirs), _unturned(mirrored(ours), theirs))


def _unturned(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    whole, other = ours[:, :1] ^ theirs[:, :N_LUMA], ours[:, :N_LUMA] ^ theirs[:, :1]
    # Column by column: numpy's minimum over rows of six takes several times as long.
    luma = functools.reduce(np.minimum, (*np.bitwise_count(whole).T, *np.bitwise_count(other).T))
    return luma + np.bitwise_count(ours[:, N_LUMA] ^ theirs[:, N_LUMA]) / np.float32(4)


FRAMES = Measure(_frames_apart, N_LUMA, _MIRROR)
"""For `copy_hashes`, the smaller distance of a frame and its mirror image: in brightness, from the whole of
one to the nearest crop of the other, plus a quarter of the distance in colours, where copies differ in up to
12 bits."""


def embedding_hashes(embeddings: np.ndarray) -> np.ndarray:
    """The sides of 7 x 63 random hyperplanes on which embeddings (N, D) lie: int64 (N, 7), topmost bits 0.

    Two embeddings at an angle a differ in a / pi of the bits, with a std of 0.9 of 63 bits at an angle of 17
    degrees (Charikar 2002, "Similarity Estimation Techniques from Rounding Algorithms").
    """
    planes = np.random.default_rng(0).standard_normal((embeddings.shape[1], WORDS * 63))
    sides = (embeddings @ planes > 0).reshape(-1, WORDS, 63)
    padded = np.pad(
        sides, ((0, 0), (0, 0), (1, 0))
    )  # numpy counts the bits of the absolute value of a negative number
    return np.packbits(padded, axis=2).view(">i8")[..., 0].astype(np.int64)


def _embeddings_apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.bitwise_count(ours ^ theirs).mean(axis=1, dtype=np.float32)


EMBEDDINGS = Measure(_embeddings_apart, WORDS, np.int64(0))
"""For `embedding_hashes`, the bits of 63 in which they differ, without regard to mirror images."""
