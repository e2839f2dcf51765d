"""What is known of an output, in the JSON next to it."""

import posixpath
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from vitascope import storage
from vitascope.encode.codecs import decibels
from vitascope.generate.layout import Layout
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.media.mp4 import encoder, jpeg_bytes
from vitascope.provenance.signer import Claim


@dataclass(frozen=True)
class Conditioning:
    """A part of a request's media in its output, and a jpeg of one of its frames.

    end: `first` or `last` if it is at that end of the output, `source` if it is made anew, else at_<frame>.
    They are `n_frames` of the output, from frame `at` on, and show the request's `media` field from `start_s`
    on.
    """

    end: str
    media: str
    start_s: float
    n_frames: int
    at: int
    picture: bytes


@dataclass(frozen=True)
class Spent:
    """Seconds of a stage for one request: those it waited for the stage with its inputs ready, and its work.

    ended: the time of day.
    """

    waited: float
    worked: float
    ended: float = field(default_factory=time.time)

    @classmethod
    def since(cls, ready: float, started: float) -> "Spent":
        """Of a stage that ends now, both given as times of day; clocks of nodes may differ a little."""
        return cls(max(0.0, started - ready), max(0.0, time.time() - started))

    @classmethod
    def total(cls, parts: "Sequence[Spent]") -> "Spent":
        """Of a stage that was asked several times; one that was asked once, and is in all, counts once."""
        each = set(parts)
        waited, worked = (sum(getattr(one, name) for one in each) for name in ("waited", "worked"))
        return cls(waited, worked, max(one.ended for one in each))


@dataclass(frozen=True, eq=False)
class Kept:
    """What an output has of its media.

    frames: uint8 (n, H, W, 3). source: (N,) int64, for each of the output's frames the one of `frames` that
    it is, if it is a conditioning frame; else -1.
    """

    pieces: tuple[Conditioning, ...]
    frames: np.ndarray
    source: np.ndarray


NOTHING = Kept((), np.empty((0, 0, 0, 3), np.uint8), np.empty(0, np.int64))


def conditioning(request: Request, place: Layout, frames: np.ndarray) -> Kept:
    """Of the frames of `media.read_given`, uint8 (n, H, W, 3)."""
    owner, source = place.owner[list(place.shown)], place.source[list(place.shown)]
    pieces = []
    for number, piece in enumerate(place.pieces):
        positions = np.flatnonzero(owner == number)
        if len(positions):  # of a loop, the picture may not be shown again
            first, last = int(positions[0]), int(positions[-1])
            end = "first" if first == 0 else "last" if last == len(owner) - 1 else f"at_{first}"
            shown = source[last if end == "first" else first]
            pieces.append(
                Conditioning(
                    end if place.is_kept else "source",
                    piece.media,
                    piece.first / request.fps,
                    len(positions),
                    first,
                    jpeg_bytes(frames[shown], 320),
                )
            )
    if not place.is_kept:
        return Kept(tuple(pieces), NOTHING.frames, np.full(len(owner), -1))
    return Kept(tuple(pieces), frames, source)


class Compared:
    """The frames of an output, compared with what `kept` says that they are, one by one as they pass."""

    def __init__(self, frames: Iterable[np.ndarray], kept: Kept) -> None:
        self._frames, self._kept = frames, kept
        self._errors: list[float] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        for index, frame in enumerate(self._frames):
            if index < len(self._kept.source) and (number := self._kept.source[index]) >= 0:
                difference = frame.astype(np.float32) - self._kept.frames[number]
                self._errors.append(float(np.square(difference).mean()))
            yield frame

    @property
    def psnr_db(self) -> float | None:
        """Of the conditioning frames so far, what the codec made of them; None without any."""
        return round(decibels(float(np.mean(self._errors))), 2) if self._errors else None


def put_conditioning(location: str, kept: Kept, psnr_db: float | None) -> dict[str, Any]:
    """Commits the pictures next to the output at `location`, without suffix; returns the sidecar's part.

    It has the number of conditioning frames at either end, all stretches of them as [begin, end), and what
    the codec left of them.
    """
    named = []
    for piece in kept.pieces:
        picture = f"{location}.{piece.end}.jpg"
        storage.put(picture, piece.picture)
        named.append(vars(piece) | {"picture": posixpath.basename(picture)})
    edges = np.flatnonzero(np.diff(kept.source >= 0, prepend=False, append=False)).tolist()
    spans = [list(span) for span in zip(edges[::2], edges[1::2], strict=True)]
    first = spans[0][1] if spans and spans[0][0] == 0 else 0
    last = spans[-1][1] - spans[-1][0] if spans and spans[-1][1] == len(kept.source) else 0
    given = {"first": first, "last": last, "spans": spans, "psnr_db": psnr_db}
    return {"given": given, "conditioning": named}


def claim(request: Request, target: Target) -> Claim:
    """What an output's manifest claims: hashes, and no text or location of the request."""
    adapter = target.adapter and {"hash": target.adapter.identity, "weight": target.adapter.weight}
    name = posixpath.basename(target.location)
    return Claim(name, target.model.identity, request.digest, request.seed, adapter, request.media)


def sidecar(request: Request, target: Target, suffix: str, spent: Mapping[str, Spent]) -> dict[str, Any]:
    """The document next to an output.

    Args:
        suffix: of the output's file.
        spent: the time of each stage.
    """
    size = request.size
    return {
        "custom_id": request.custom_id,
        "kind": request.kind,
        "uri": target.location + suffix,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "guidance_2": request.guidance_2,
        "guidance_interval": list(request.guidance_interval),
        "quality": request.quality,
        "solver": request.solver,
        "shift": request.shift,
        "chunk_frames": request.chunk_frames,
        "adapter": target.adapter and target.adapter._asdict(),
        "n_frames": size.n_frames,
        "height": size.height,
        "width": size.width,
        "fps": request.fps,
        "media": {"image": None, "video": None, "video_after": None} | request.media,
        "strength": request.strength,
        "encoder": "png" if size.n_frames == 1 else encoder(),
        "model": target.model._asdict(),
        "seconds": {stage: round(one.worked, 3) for stage, one in spent.items()},
        "waited": {stage: round(one.waited, 3) for stage, one in spent.items()},
        "vitascope": version("vitascope"),
    }
