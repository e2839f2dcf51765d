"""Combed frames: how much, and deinterlaced.

An interlaced frame holds two moments, one in its even and one in its odd rows; if anything moved between
them, edges look like combs. Flags cannot be trusted: most footage that is flagged as interlaced holds one
moment a frame, and deinterlacing would cost it detail. So flagged frames are deinterlaced only if they are
combed, and the others get a score (`clips.filters.combing`).

Measured (tests/media/test_fields.py): progressive footage and noise score up to 0.00002, footage whose
fields lie a frame apart 0.01 to 0.1.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

COMBED = 0.0001
"""A flagged frame is deinterlaced if more than this fraction of its pixels are combed."""

_COLUMNS = 480  # up to twice as many of a frame are looked at
_ADJACENT = np.ones((1, 3), np.uint8)  # columns that have to be combed together: noise is not
_LEVELS = 8  # of 255; rows that differ by less are no visible comb


def combing(frame: av.VideoFrame) -> float:
    """The fraction of a frame's pixels, 0 to 1, that lie in a comb.

    In a comb five rows alternate: each differs from both neighbours in the same direction, by more than 8
    levels and twice as much as from the next row of its own field. A single thin line does not.
    """
    luma = np.ascontiguousarray(_luma(frame)[:, :: max(frame.width // _COLUMNS, 1)])
    if len(luma) < 5:
        return 0.0
    above, here, below = luma[:-2], luma[1:-1], luma[2:]
    brighter = cv2.min(cv2.subtract(here, above), cv2.subtract(here, below))
    darker = cv2.min(cv2.subtract(above, here), cv2.subtract(below, here))
    contrast = cv2.max(brighter, darker)[1:-1]
    steps = cv2.absdiff(above, below)
    within = cv2.max(cv2.max(steps[:-2], steps[1:-1]), steps[2:])
    combed = cv2.compare(
        contrast, cv2.max(cv2.add(within, within), np.full_like(within, _LEVELS)), cv2.CMP_GT
    )
    return cv2.countNonZero(cv2.erode(combed, _ADJACENT)) / combed.size


def _luma(frame: av.VideoFrame) -> np.ndarray:
    """(H, W) uint8. A plane of 8 bits is used in place: converting it takes longer than all the rest."""
    if frame.format.name not in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12"):
        return frame.reformat(format="gray", threads=1).to_ndarray()
    plane: Any = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]


class Deinterlacer:
    """ffmpeg's bwdif, a frame for a frame: the rows of its second moment are made from those around them."""

    def __init__(self) -> None:
        self._graph: av.filter.Graph | None = None
        self._shape: tuple[int, int, str] | None = None

    def __call__(
        self, before: av.VideoFrame | None, frame: av.VideoFrame, after: av.VideoFrame | None
    ) -> av.VideoFrame:
        """`frame` with the rows of its first moment kept; it depends on these three frames alone.

        The frame itself replaces a neighbour that is missing or has another size.
        """
        shape = _shape(frame)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = _graph(frame), shape
        around = [f if f is not None and _shape(f) == shape else frame for f in (before, frame, after)]
        made = [out for each in around for out in self._through(each)][-1]
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(made, name, getattr(frame, name))
        return made

    def _through(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The output for a frame: the frame before it, deinterlaced."""
        assert self._graph
        self._graph.vpush(frame)
        with contextlib.suppress(av.error.BlockingIOError):
            while True:
                yield self._graph.vpull()


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _graph(like: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    graph.threads = 1
    width, height, base = like.width, like.height, Fraction(1, 1000)
    source = graph.add_buffer(width=width, height=height, format=like.format, time_base=base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink"))
    graph.configure()
    return graph
