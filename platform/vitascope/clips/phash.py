"""Fingerprint of how a frame looks."""

import numpy as np
from PIL import Image

_SIDE, _KEPT = 32, 8


def phash(frame: np.ndarray) -> int:
    """A signed 64-bit perceptual hash of one frame (H W 3, uint8); alike frames differ in few bits.

    The signs of the lowest 8 x 8 DCT coefficients of the 32 x 32 grey picture around their median
    (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", pHash).
    """
    grey = Image.fromarray(frame).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    low = _DCT @ np.asarray(grey, np.float64) @ _DCT.T
    bits = low.ravel() > np.median(low)
    return int(np.packbits(bits).view(">i8")[0])


def distance(a: int, b: int) -> int:
    """How many of 64 bits two hashes differ in; below about 10 they show the same."""
    return ((a ^ b) & (2**64 - 1)).bit_count()


def _dct_rows() -> np.ndarray:
    """The lowest rows of the DCT-II matrix (8 x 32)."""
    k, n = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))


_DCT = _dct_rows()
