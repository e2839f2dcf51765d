"""Media to conditioning latents, and latents to committed files."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from vitascope import storage
from vitascope.encode.codecs import Codec, make_codec
from vitascope.generate import conditions, media
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.values import Denoised, Given, Metered, device
from vitascope.generate.changes import changes
from vitascope.generate.layout import layout
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import (
    NOTHING,
    Compared,
    Kept,
    Spent,
    conditioning,
    put_conditioning,
    sidecar,
)
from vitascope.generate.starting import starting
from vitascope.media import mp4
from vitascope.model.formats.card import ModelCard

WRITES, AT_ONCE = 2.0, 4
"""Outputs that a replica works on, one decoded while another is uploaded; and requests of all kinds."""


class DecodeWrite(Metered):
    """Media to conditioning latents, and latents to committed files: the work that needs the codec.

    A replica decodes one output at a time, and meanwhile uploads another and reads media for others. They
    take turns at the codec itself, for a latent frame of an output or for a whole conditioning latent.
    """

    room = WRITES

    def __init__(self, card: ModelCard, gpus: float = 0) -> None:
        super().__init__()
        with starting("the codec"):
            self._codec = _Shared(make_codec(card.encode, device(gpus)))
        self._patching, self._most_text = card.patching, card.encode.max_text_tokens
        self._decoding = threading.Lock()

    def canvas(self, request: Request, *, ready: float, takes: Takes) -> Given:
        """The request's conditioning latent, asked for at the time of day `ready`."""
        started = time.time()
        with self.meter.doing(takes):
            place, frames = media.read_given(request, self._patching)
            canvas = conditions.canvas(place, frames, self._codec)
        kept, spent = conditioning(request, place, frames), Spent.since(ready, started)
        return Given(canvas.latent.numpy(), canvas.given.numpy(), kept, spent)

    def write(
        self, request: Request, denoised: Denoised, given: Given | None, target: Target, *, takes: Takes
    ) -> dict[str, object]:
        """Decodes, encodes and commits the output, then creates the sidecar and returns it.

        The sidecar marks the request as finished. If attempts race, one creates it, and all return that one.
        """
        with self.meter.doing(takes):
            ready = denoised.spent["denoise"].ended
            kept = given.kept if given else NOTHING
            (content, suffix), psnr_db, spent = self._made(request, denoised, kept, ready)
            started = time.time()
            storage.put(target.location + suffix, content)
            about = {
                "device_s": round(denoised.device_s, 6),
                "changes": changes(request, self._patching, denoised.n_text, self._most_text),
                **put_conditioning(target.location, kept, psnr_db),
            }
            spent["upload"] = Spent.since(started, started)
            document = sidecar(request, target, suffix, denoised.spent | spent) | about
            if storage.create(target.location + ".json", storage.json_bytes(document)):
                return document
            return storage.read_json(target.location + ".json")

    def _made(
        self, request: Request, denoised: Denoised, kept: Kept, ready: float
    ) -> tuple[tuple[bytes, str], float | None, dict[str, Spent]]:
        """The output and its suffix, what the codec left of conditioning frames, and the time it took."""
        with self._decoding:
            started = time.time()
            decoded = _Timed(self._codec.decode(torch.tensor(denoised.latent)))
            frames = (frame for group in decoded for frame in group.cpu().numpy())
            shown = conditions.crop(frames, request, layout(request, self._patching))
            compared = Compared(shown, kept)
            output = mp4.media_bytes(compared, request.fps)
            encode_s = time.time() - started - decoded.seconds
        spent = {"decode": Spent(max(0.0, started - ready), decoded.seconds), "encode": Spent(0.0, encode_s)}
        return output, compared.psnr_db, spent


class _Shared:
    """A codec that threads take turns to use."""

    def __init__(self, codec: Codec) -> None:
        self._codec, self._turn = codec, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """As `Codec.encode`."""
        with self._turn:
            return self._codec.encode(frames)

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `Codec.decode`; other threads may use the codec between two groups."""
        groups = self._codec.decode(latents)
        while True:
            with self._turn:
                group = next(groups, None)
            if group is None:
                return
            yield group


class _Timed:
    """Iterates over `items`; `seconds` is the time they have taken so far."""

    def __init__(self, items: Iterator[torch.Tensor]) -> None:
        self._items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            started = time.monotonic()
            item = next(self._items, None)
            self.seconds += time.monotonic() - started
            if item is None:
                return
            yield item
