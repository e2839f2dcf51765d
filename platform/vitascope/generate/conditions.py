"""Turns media into conditioning latents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from vitascope.encode.buckets import Patching
from vitascope.encode.codecs import Codec
from vitascope.generate.request import Mode, Request
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize


@dataclass(frozen=True)
class Canvas:
    """The conditioning latent: (T, h, w, C) float32, valid for frames in the mask `given` (T,) bool."""

    latent: Tensor
    given: Tensor


@dataclass(frozen=True)
class Layout:
    """Conditioning frames: `n_first` at the start, after `n_before` of their media; `n_last` at the end."""

    made: VideoSize
    n_first: int = 0
    n_last: int = 0
    n_before: int = 0

    @property
    def given(self) -> np.ndarray:
        """(F,) bool, the mask of conditioning frames."""
        index = np.arange(self.made.n_frames)
        return (index < self.n_first) | (index >= self.made.n_frames - self.n_last)


def layout(request: Request, patching: Patching, available: tuple[int, ...]) -> Layout:
    """The conditioning frames, if the mode's media hold `available` frames at the request's fps.

    An image is the first frame. When extending, as much of the media as available is used, up to half of the
    latent frames; when joining, up to a third at either end. Both are whole latent frames.

    Raises:
        Rejected: TOO_SHORT if the media of an end hold less than a latent frame.
    """
    made, time_stride = patching.covering(request.size), patching.strides.time
    n_latent = patching.latent_shape(made)[0]
    if request.mode is Mode.TEXT_TO_VIDEO:
        return Layout(made)
    if request.mode is Mode.IMAGE_TO_VIDEO:
        return Layout(made, n_first=1)
    if request.mode is Mode.EXTEND_FORWARD:
        return Layout(made, n_first=_beginning(available[0], n_latent // 2, time_stride))
    if request.mode is Mode.EXTEND_BACKWARD:
        return Layout(made, n_last=_end(request, available[0], n_latent // 2, time_stride))
    n_last = _end(request, available[1], n_latent // 3, time_stride)
    return Layout(made, n_first=_beginning(available[0], n_latent // 3, time_stride), n_last=n_last)


def latent_given(given: np.ndarray, time_stride: int) -> np.ndarray:
    """(T,) bool from (F,) bool: a latent frame is a conditioning frame if all its frames are.

    The first latent frame is the first frame, each later one `time_stride` frames.
    """
    return np.concatenate([given[:1], given[1:].reshape(-1, time_stride).all(axis=1)])


def canvas(place: Layout, frames: np.ndarray, codec: Codec) -> Canvas:
    """The latent of the conditioning `frames`, uint8 (n_first + n_last, H, W, 3) in the output's size.

    Frames to be generated are filled with the nearest conditioning frame, and the padding at the right and at
    the bottom with the edge: the codec sees an unbroken video, and no filling is used as a condition.
    """
    given = place.given
    timeline = frames[_nearest(given)]
    rows = np.minimum(np.arange(place.made.height), frames.shape[1] - 1)
    columns = np.minimum(np.arange(place.made.width), frames.shape[2] - 1)
    pixels = np.ascontiguousarray(timeline[:, rows][:, :, columns])
    latent = codec.encode(torch.from_numpy(pixels)).cpu()
    return Canvas(latent, torch.from_numpy(latent_given(given, codec.strides.time)))


def blank(request: Request, patching: Patching, channels: int) -> Canvas:
    """The conditioning latent of a request without media: no conditioning frames."""
    shape = patching.latent_shape(patching.covering(request.size))
    return Canvas(torch.zeros(*shape, channels), torch.zeros(shape[0], dtype=torch.bool))


def crop(frames: Iterable[np.ndarray], request: Request, n_made: int) -> Iterator[np.ndarray]:
    """The output's frames (H, W, 3), the top left of the `n_made` generated ones, which holds the conditions.

    Spare frames are cut from the end, so that conditioning frames at the start stay whole and at least one
    frame of a joined end stays; when extending backwards from the start, so that those at the end stay whole.
    """
    size = request.size
    start = n_made - size.n_frames if request.mode is Mode.EXTEND_BACKWARD else 0
    for frame in islice(frames, start, start + size.n_frames):
        yield frame[: size.height, : size.width]


def _beginning(available: int, most_latent: int, time_stride: int) -> int:
    return 1 + time_stride * min(most_latent - 1, (available - 1) // time_stride)


def _end(request: Request, available: int, most_latent: int, time_stride: int) -> int:
    if available < time_stride:
        raise Rejected(
            Reason.TOO_SHORT,
            f"mode {request.mode} ends with at least {time_stride} frames of its video, which has "
            f"{available} at {request.fps:g} fps; give a longer video or raise fps",
        )
    return time_stride * min(most_latent, available // time_stride)


def _nearest(given: np.ndarray) -> np.ndarray:
    """(F,) for each frame, the index of the conditioning frame nearest in time."""
    positions = np.flatnonzero(given)
    return np.abs(np.arange(len(given))[:, None] - positions[None]).argmin(axis=1)
