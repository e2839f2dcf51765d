"""Turn given media into given latent frames."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitascope.encode.buckets import TIME_STRIDE, latent_shape
from vitascope.encode.codecs import Codec
from vitascope.generate.request import Mode, Request, generated_size
from vitascope.ledger import Reason, Rejected
from vitascope.records import VideoSize


@dataclass(frozen=True)
class Canvas:
    """The latent to be made: (T, h, w, C) float32, right where `given` (T,) bool says so."""

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
        """(F,) bool, the frames that are given."""
        index = np.arange(self.made.n_frames)
        return (index < self.n_first) | (index >= self.made.n_frames - self.n_last)


def layout(request: Request, patch: int, available: tuple[int, ...]) -> Layout:
    """Which frames are given, if the mode's media hold `available` frames at the request's fps.

    An image is given as the first frame. Extending, as much of the media is given as there is, up to half
    of the latent frames; joining, up to a third at either end. A given beginning is 1 + 4k frames, a given
    end 4k: whole latent frames.

    Raises:
        Rejected: TOO_SHORT if an end is to be given by fewer than 4 frames.
    """
    made = generated_size(request.size, patch)
    n_latent = latent_shape(made)[0]
    if request.mode is Mode.TEXT_TO_VIDEO:
        return Layout(made)
    if request.mode is Mode.IMAGE_TO_VIDEO:
        return Layout(made, n_first=1)
    if request.mode is Mode.EXTEND_FORWARD:
        return Layout(made, n_first=_beginning(available[0], n_latent // 2))
    if request.mode is Mode.EXTEND_BACKWARD:
        return Layout(made, n_last=_end(request, available[0], n_latent // 2))
    n_last = _end(request, available[1], n_latent // 3)
    return Layout(made, n_first=_beginning(available[0], n_latent // 3), n_last=n_last)


def latent_given(given: np.ndarray) -> np.ndarray:
    """(T,) bool from (F,) bool: a latent frame is given if all its frames are.

    The first latent frame is the first frame, each later one four frames.
    """
    return np.concatenate([given[:1], given[1:].reshape(-1, TIME_STRIDE).all(axis=1)])


def canvas(place: Layout, frames: np.ndarray, codec: Codec) -> Canvas:
    """The latent that holds the given `frames`, uint8 (n_first + n_last, H, W, 3) in the output's size.

    Frames to be made are filled with the nearest given one, and what the size made adds at the right and at
    the bottom with the edge: the codec sees an unbroken video, and none of the filling is taken as given.
    """
    given = place.given
    timeline = frames[_nearest(given)]
    rows = np.minimum(np.arange(place.made.height), frames.shape[1] - 1)
    columns = np.minimum(np.arange(place.made.width), frames.shape[2] - 1)
    pixels = np.ascontiguousarray(timeline[:, rows][:, :, columns])
    return Canvas(codec.encode(torch.from_numpy(pixels)), torch.from_numpy(latent_given(given)))


def blank(request: Request, patch: int, channels: int) -> Canvas:
    """The canvas of a request without media: nothing is given."""
    shape = latent_shape(generated_size(request.size, patch))
    return Canvas(torch.zeros(*shape, channels), torch.zeros(shape[0], dtype=torch.bool))


def crop(frames: np.ndarray, request: Request) -> np.ndarray:
    """The output (F, H, W, 3), cut from the frames made: the top left, where the canvas has the given pixels.

    Spare frames go from the end, so that a given beginning stays whole and of a joined end at least one frame
    stays; extending backwards from the start, so that the given end stays whole.
    """
    size = request.size
    start = len(frames) - size.n_frames if request.mode is Mode.EXTEND_BACKWARD else 0
    return frames[start : start + size.n_frames, : size.height, : size.width]


def _beginning(available: int, most_latent: int) -> int:
    return 1 + TIME_STRIDE * min(most_latent - 1, (available - 1) // TIME_STRIDE)


def _end(request: Request, available: int, most_latent: int) -> int:
    if available < TIME_STRIDE:
        raise Rejected(
            Reason.TOO_SHORT,
            f"mode {request.mode} ends with at least {TIME_STRIDE} frames of its video, which has "
            f"{available} at {request.fps:g} fps; give a longer video or raise fps",
        )
    return TIME_STRIDE * min(most_latent, available // TIME_STRIDE)


def _nearest(given: np.ndarray) -> np.ndarray:
    """(F,) for each frame, the index among the given frames of the one nearest in time."""
    positions = np.flatnonzero(given)
    return np.abs(np.arange(len(given))[:, None] - positions[None]).argmin(axis=1)
