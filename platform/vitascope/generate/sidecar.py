"""What is known of an output, in the JSON next to it."""

import posixpath
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from vitascope import storage
from vitascope.generate.conditions import Layout
from vitascope.generate.opened import Target
from vitascope.generate.request import MEDIA, Request
from vitascope.media.mp4 import encoder, jpeg_bytes
from vitascope.provenance.signer import Claim


@dataclass(frozen=True)
class Conditioning:
    """The conditioning frames at an end of an output, `first` or `last`, and a jpeg of that next to the rest.

    They are `n_frames` of the request's `media` field from `start_s` on, at the request's fps.
    """

    end: str
    media: str
    start_s: float
    n_frames: int
    picture: bytes


def conditioning(request: Request, place: Layout, frames: np.ndarray) -> list[Conditioning]:
    """Of the frames of `media.read_given`, uint8 (n_first + n_last, H, W, 3)."""
    media, n = MEDIA[request.mode], place.n_first
    ends = []
    if n:
        start_s = place.n_before / request.fps
        ends.append(Conditioning("first", media[0], start_s, n, jpeg_bytes(frames[n - 1], 320)))
    if place.n_last:
        ends.append(Conditioning("last", media[-1], 0.0, place.n_last, jpeg_bytes(frames[n], 320)))
    return ends


def put_conditioning(location: str, ends: list[Conditioning]) -> dict[str, Any]:
    """Commits the pictures next to the output at `location`, without suffix; returns the sidecar's part."""
    named = []
    for end in ends:
        picture = f"{location}.{end.end}.jpg"
        storage.put(picture, end.picture)
        named.append(vars(end) | {"picture": posixpath.basename(picture)})
    given = {"first": 0, "last": 0} | {end.end: end.n_frames for end in ends}
    return {"given": given, "conditioning": named}


def claim(request: Request, target: Target) -> Claim:
    """What an output's manifest claims: hashes, and no text or location of the request."""
    adapter = target.adapter and {"hash": target.adapter.identity, "weight": target.adapter.weight}
    inputs = {field: str(getattr(request, field)) for field in MEDIA[request.mode]}
    name = posixpath.basename(target.location)
    return Claim(name, target.model.identity, request.digest, request.seed, adapter, inputs)


def sidecar(request: Request, target: Target, suffix: str, timings: dict[str, float]) -> dict[str, Any]:
    """The document next to an output.

    Args:
        suffix: of the output's file.
        timings: seconds by stage.
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
        "solver": request.solver,
        "shift": request.shift,
        "adapter": target.adapter and target.adapter._asdict(),
        "n_frames": size.n_frames,
        "height": size.height,
        "width": size.width,
        "fps": request.fps,
        "media": {field: getattr(request, field) for field in ("image", "video", "video_after")},
        "encoder": "png" if size.n_frames == 1 else encoder(),
        "model": target.model._asdict(),
        "seconds": timings,
        "vitascope": version("vitascope"),
    }
