"""Read the frames a request is given."""

from dataclasses import dataclass, replace

import numpy as np

from vitascope import storage
from vitascope.generate.conditions import Layout, layout
from vitascope.generate.request import MEDIA, Request
from vitascope.ledger import Reason, Rejected
from vitascope.media.clip import read_clip
from vitascope.media.probe import probe


def read_given(request: Request, patch: int) -> tuple[Layout, np.ndarray]:
    """The request's given frames: uint8 (n_first + n_last, H, W, 3) in its size; and where they lie.

    Frames are picked by timestamp at the request's fps, turned upright, scaled to cover the output and
    cropped around the centre. A given beginning is the end of the first of the media, a given end the
    beginning of the last.

    Raises:
        Rejected: MEDIA_MISSING; INVALID_REQUEST if a picture is given for a video or the reverse; TOO_SHORT;
            and what `probe` and `read_clip` raise.
    """
    sources = [_Source.of(request, field) for field in MEDIA[request.mode]]
    place = layout(request, patch, tuple(source.n_frames for source in sources))
    place = replace(place, n_before=sources[0].n_frames - place.n_first)
    pieces = [sources[0].read(place.n_before, place.n_first, request)] if place.n_first else []
    pieces += [sources[-1].read(0, place.n_last, request)] if place.n_last else []
    return place, np.concatenate(pieces)


@dataclass(frozen=True)
class _Source:
    """One of the media: `n_frames` at the request's fps."""

    uri: str
    n_frames: int
    decoder: str

    @classmethod
    def of(cls, request: Request, field: str) -> "_Source":
        uri, wanted = str(getattr(request, field)), "image" if field == "image" else "video"
        article = "an" if wanted == "image" else "a"
        if not storage.exists(uri):
            raise Rejected(Reason.MEDIA_MISSING, f"no file at {uri}, given as {field!r}")
        try:
            facts = probe(uri)
        except Rejected as error:
            raise Rejected(error.reason, f"{uri}, given as {field!r}: {error.detail}") from None
        if facts["kind"] != wanted:
            raise Rejected(
                Reason.INVALID_REQUEST, f"{field!r} expects {article} {wanted}, got the {facts['kind']} {uri}"
            )
        # A container rounds its duration: 0.9999 s at 8 fps are 8 frames.
        n_frames = max(1, int(facts["duration_s"] * request.fps + 0.01))
        return cls(uri, n_frames, facts["decoder"])

    def read(self, first: int, n_frames: int, request: Request) -> np.ndarray:
        """Frames `first` to `first + n_frames` at the request's fps, in its size."""
        return read_clip(
            self.uri,
            start_s=first / request.fps,
            fps=request.fps,
            n_frames=n_frames,
            size=(request.height, request.width),
            decoder=self.decoder,
        )
