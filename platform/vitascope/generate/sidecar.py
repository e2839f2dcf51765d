"""What is known of an output, in the JSON next to it."""

import io
import posixpath
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from vitascope import storage
from vitascope.generate.conditions import Layout
from vitascope.generate.request import MEDIA, Request
from vitascope.media.mp4 import encoder

_PICTURE_PX = 320


@dataclass(frozen=True)
class Conditioning:
    """The conditioning frames at an end of an output, `first` or `last`.

    They are `n_frames` of the request's `media` field from `start_s` on, at the request's fps. picture: a
    WebP file of the one next to the frames to be made.
    """

    end: str
    media: str
    start_s: float
    n_frames: int
    picture: bytes


def conditioning(request: Request, place: Layout, frames: np.ndarray) -> list[Conditioning]:
    """Of the frames of `media.read_given`, uint8 (n_first + n_last, H, W, 3)."""
    media, n = MEDIA[request.mode], place.n_first
    found = []
    if n:
        start_s = place.n_before / request.fps
        found.append(Conditioning("first", media[0], start_s, n, _picture(frames[n - 1])))
    if place.n_last:
        found.append(Conditioning("last", media[-1], 0.0, place.n_last, _picture(frames[n])))
    return found


def _picture(frame: np.ndarray) -> bytes:
    picture, sink = Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX))
    picture.save(sink, "WEBP")
    return sink.getvalue()


def put_pictures(location: str, pieces: list[Conditioning]) -> list[dict[str, Any]]:
    """Commits the pictures next to the output at `location`, without suffix; returns what names them."""
    named = []
    for piece in pieces:
        picture = f"{location}.{piece.end}.webp"
        storage.put(picture, piece.picture)
        named.append(vars(piece) | {"picture": posixpath.basename(picture)})
    return named


def sidecar(request: Request, uri: str, model: dict[str, Any], timings: dict[str, float]) -> dict[str, Any]:
    """The document that stands next to an output.

    Args:
        uri: where the output is.
        model: what made it: folder, identity, step, fingerprint of its latents.
        timings: seconds by stage.
    """
    size = request.size
    return {
        "custom_id": request.custom_id,
        "kind": request.kind,
        "uri": uri,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "steps": request.steps,
        "guidance": request.guidance,
        "n_frames": size.n_frames,
        "height": size.height,
        "width": size.width,
        "fps": request.fps,
        "media": {field: getattr(request, field) for field in ("image", "video", "video_after")},
        "encoder": "png" if size.n_frames == 1 else encoder(),
        "model": model,
        "seconds": timings,
        "vitascope": version("vitascope"),
    }
