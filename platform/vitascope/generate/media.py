"""Reads the media of a request."""

from dataclasses import dataclass

import numpy as np

from vitascope import storage
from vitascope.encode.buckets import Patching
from vitascope.generate.layout import Layout, Piece, layout
from vitascope.generate.request import Request
from vitascope.ledger import Reason, Rejected
from vitascope.media.clip import Clip
from vitascope.media.probe import probe


def read_given(request: Request, patching: Patching) -> tuple[Layout, np.ndarray]:
    """The frames of all pieces of the request's layout: uint8 (n, H, W, 3) in its size; and the layout.

    Frames are selected by timestamp at the request's fps, rotated upright, scaled to cover the output and
    cropped around the centre.

    Raises:
        Rejected: MEDIA_MISSING; INVALID_REQUEST if a picture is given for a video or the reverse; TOO_SHORT;
            and errors of `probe` and `Clip.frames`.
    """
    sources = {name: _Source.of(request, name, uri) for name, uri in request.media.items()}
    place = layout(request, patching, {name: source.n_frames for name, source in sources.items()})
    return place, np.concatenate([sources[piece.media].read(piece, request) for piece in place.pieces])


@dataclass(frozen=True)
class _Source:
    """One of the media: `n_frames` at the request's fps."""

    uri: str
    n_frames: int
    decoder: str

    @classmethod
    def of(cls, request: Request, field: str, uri: str) -> "_Source":
        wanted = "video" if field in ("video", "video_after") else "image"
        article = "an" if wanted == "image" else "a"
        if not storage.exists(uri):
            raise Rejected(Reason.MEDIA_MISSING, f"no file at {uri}, given as {field!r}")
        try:
            facts = probe(uri)
        except Rejected as error:
            raise Rejected(error.reason, f"{uri}, given as {field!r}: {error.detail}") from None
        if facts.kind != wanted:
            raise Rejected(
                Reason.INVALID_REQUEST, f"{field!r} expects {article} {wanted}, got the {facts.kind} {uri}"
            )
        # A container rounds its duration: 0.9999 s at 8 fps are 8 frames.
        n_frames = max(1, int(facts.duration_s * request.fps + 0.01))
        return cls(uri, n_frames, facts.decoder)

    def read(self, piece: Piece, request: Request) -> np.ndarray:
        """The frames of a piece of it, in the request's size."""
        start_s, fps = piece.first / request.fps, request.fps / piece.step
        clip = Clip(self.uri, self.decoder, start_s, fps, n_frames=piece.n_frames)
        return clip.frames(size=(request.height, request.width))
