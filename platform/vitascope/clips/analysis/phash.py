"""Perceptual hash of a frame."""

import cv2
import numpy as np

_SIDE, _KEPT = 32, 8


def phashes(frames: np.ndarray) -> np.ndarray:
    """Signed 64-bit perceptual hashes (F,) of frames (F H W 3, uint8); similar frames differ in few bits.

    The signs of the lowest 8 x 8 DCT coefficients of the 32 x 32 grey picture around their median
    (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", pHash).
    """
    side = (_SIDE, _SIDE)
    grey = [
        cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), side, interpolation=cv2.INTER_AREA) for f in frames
    ]
    # Rounded, so that the coefficients of a flat frame are zero and not rounding noise.
    low = (_DCT @ np.array(grey, np.float64) @ _DCT.T).round(3).reshape(len(frames), -1)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1).view(">i8")[:, 0].astype(np.int64)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits, of 64, in which hashes (F,) differ; below about 10 the pictures are the same."""
    return np.bitwise_count((a ^ b).view(np.uint64))


def _dct_rows() -> np.ndarray:
    """The lowest rows of the DCT-II matrix (8 x 32)."""
    k, n = np.arange(_KEPT)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))


_DCT = _dct_rows()
