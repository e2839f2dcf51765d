"""Turns media into conditioning latents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import Codec
from vitascope.generate.layout import Layout, layout
from vitascope.generate.request import Request


@dataclass(frozen=True)
class Canvas:
    """The conditioning latent: (T, h, w, C) float32.

    It is valid for frames in the mask `given` (T,) bool, and for all if the request is made from a noise
    level below 1. tied: (T,) int64, the latent frame that each is the same as; None if all are different.
    """

    latent: Tensor
    given: Tensor
    tied: Tensor | None = None


def canvas(place: Layout, frames: np.ndarray, codec: Codec) -> Canvas:
    """The latent of `frames`, those of all pieces of the layout, uint8 (n, H, W, 3) in the output's size.

    Frames to be generated are filled with the nearest conditioning frame, and the padding at the right and at
    the bottom with the edge: the codec sees an unbroken video, and no filling is used as a condition.
    """
    timeline = frames[place.nearest]
    rows = np.minimum(np.arange(place.made.height), frames.shape[1] - 1)
    columns = np.minimum(np.arange(place.made.width), frames.shape[2] - 1)
    pixels = np.ascontiguousarray(timeline[:, rows][:, :, columns])
    return Canvas(codec.encode(torch.from_numpy(pixels)).cpu(), torch.from_numpy(place.given))


def blank(request: Request, patching: Patching, channels: int) -> Canvas:
    """The conditioning latent of a request without media: no conditioning frames."""
    place = layout(request, patching)
    shape = patching.latent_shape(place.made)
    tied = None if place.tied is None else torch.from_numpy(place.tied)
    return Canvas(torch.zeros(*shape, channels), torch.zeros(shape[0], dtype=torch.bool), tied)


def crop(frames: Iterable[np.ndarray], request: Request, place: Layout) -> Iterator[np.ndarray]:
    """The output's frames (H, W, 3): of all that are made those that are shown, at the top left of each.

    No frame after the last of them is asked for.
    """
    size, positions = request.size, iter(place.shown)
    wanted = next(positions)
    for position, frame in enumerate(frames):
        if position == wanted:
            yield frame[: size.height, : size.width]
            if (wanted := next(positions, -1)) < 0:
                return
