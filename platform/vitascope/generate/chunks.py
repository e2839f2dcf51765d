"""Cuts a long video into chunks that a model makes one after the other."""

from dataclasses import dataclass, replace

from vitascope.encode.buckets import Patching
from vitascope.generate.request import Mode, Request
from vitascope.records import VideoSize, stable_int

N_KEPT = 1
"""First latent frames of a video that every chunk is given: they hold its look, and a causal codec makes the
first of a single frame, unlike all others."""
LONG_MODES = (Mode.TEXT_TO_VIDEO, Mode.IMAGE_TO_VIDEO, Mode.EXTEND_FORWARD)
"""Modes whose conditioning frames are all at the start, and so in the first chunk."""
LEAST_LATENT = 3
"""Latent frames of the shortest window: a kept one, one before the chunk, and one to be made."""


@dataclass(frozen=True)
class Chunk:
    """Latent frames `start` to `stop` of a video, made in one go.

    Its window holds the first N_KEPT latent frames of the video and the `n_before` before `start`, which are
    given, and its own. The window of the first chunk is its own frames.
    """

    index: int
    start: int
    stop: int
    n_before: int

    @property
    def n_given(self) -> int:
        """The latent frames of its window that earlier chunks made."""
        return N_KEPT + self.n_before if self.index else 0

    @property
    def n_window(self) -> int:
        """The latent frames of its window."""
        return self.n_given + self.stop - self.start


def cut(n_latent: int, window: int) -> list[Chunk]:
    """The chunks of `n_latent` latent frames, each with a window of at most `window`.

    A quarter of a window is what came before: with less, motion is lost at joins; with more, few frames of a
    pass are new. Chunks after the first differ by one frame at most.

    Raises:
        ValueError: `window` is shorter than LEAST_LATENT, and the video is longer.
    """
    if n_latent <= window:
        return [Chunk(0, 0, n_latent, 0)]
    if window < LEAST_LATENT:
        raise ValueError(f"a window has at least {LEAST_LATENT} latent frames, got {window}")
    n_before = max(1, window // 4)
    rest, most = n_latent - window, window - N_KEPT - n_before
    n_chunks = -(-rest // most)
    ends = [window + rest * i // n_chunks for i in range(n_chunks + 1)]
    later = [Chunk(i, ends[i - 1], ends[i], n_before) for i in range(1, n_chunks + 1)]
    return [Chunk(0, 0, window, 0), *later]


def chunks_of(request: Request, patching: Patching) -> list[Chunk]:
    """The chunks of a request; one, unless it has `chunk_frames`."""
    n_latent = patching.latent_shape(patching.covering(request.size))[0]
    return cut(n_latent, _latent(request.chunk_frames, patching) if request.chunk_frames else n_latent)


def alone(request: Request, chunk: Chunk, patching: Patching) -> Request:
    """The request for the window of a chunk, made on its own; that of the first chunk has the same noise."""
    n_frames = 1 + patching.strides.time * (chunk.n_window - 1)
    changed: dict[str, object] = {"seconds": n_frames / request.fps, "chunk_frames": None}
    if chunk.index:
        changed |= {"mode": Mode.EXTEND_FORWARD, "seed": stable_int("chunk", request.seed, chunk.index)}
    return request.model_copy(update=changed)


def after(chunk: Chunk, request: Request, patching: Patching) -> float:
    """The work of the chunks after this one, relative to its own, at least: it grows faster than a window."""
    later = chunks_of(request, patching)[chunk.index + 1 :]
    sizes = [one.n_window / chunk.n_window for one in later]
    return sum(min(size, size**2) for size in sizes)


def at_once(request: Request) -> VideoSize:
    """The size of the largest part of a request that one pass makes."""
    size = request.size
    return replace(size, n_frames=min(size.n_frames, request.chunk_frames or size.n_frames))


def longest(size: VideoSize, budget: int, patching: Patching) -> int:
    """The frames of the longest video, as high and wide as `size`, that has at most `budget` patches."""
    of_a_frame = patching.n_tokens(patching.covering(replace(size, n_frames=1)))
    return _frames(budget // of_a_frame, patching)


def least_frames(patching: Patching) -> int:
    """The frames of the shortest window."""
    return _frames(LEAST_LATENT, patching)


def whole(n_frames: int, patching: Patching) -> int:
    """The most frames, of at most `n_frames`, that are whole latent frames."""
    return _frames(_latent(n_frames, patching), patching)


def _latent(n_frames: int, patching: Patching) -> int:
    return 1 + (n_frames - 1) // patching.strides.time


def _frames(n_latent: int, patching: Patching) -> int:
    return 1 + patching.strides.time * (n_latent - 1)
