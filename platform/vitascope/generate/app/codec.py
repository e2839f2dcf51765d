"""Media to conditioning latents, and latents to committed files."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vitascope import storage
from vitascope.clips.filters import HookFilter
from vitascope.encode.codecs import make_codec
from vitascope.generate import conditions, media
from vitascope.generate.app.values import Denoised, device
from vitascope.generate.changes import changes
from vitascope.generate.opened import Target
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Conditioning, claim, conditioning, put_conditioning, sidecar
from vitascope.generate.starting import starting
from vitascope.media import mp4
from vitascope.model.formats.card import ModelCard
from vitascope.prompts.screen import screened
from vitascope.provenance.settings import ProvenanceSettings
from vitascope.provenance.signer import Signer

_USUAL, _ALL_PASS = ProvenanceSettings(), HookFilter()


class DecodeWrite:
    """Media to conditioning latents, and latents to committed files: the work that needs the codec."""

    def __init__(
        self,
        card: ModelCard,
        gpus: float = 0,
        provenance: ProvenanceSettings = _USUAL,
        frames: HookFilter = _ALL_PASS,
    ) -> None:
        with starting("the codec"):
            self._codec = make_codec(card.encode, device(gpus))
        with starting("signing"):
            self._signer = Signer(provenance)
        self._frames = frames
        self._patching, self._most_text = card.patching, card.encode.max_text_tokens

    def canvas(self, request: Request) -> tuple[np.ndarray, np.ndarray, list[Conditioning]]:
        """The request's conditioning latent: latent (T, h, w, C), given (T,); and the frames it is from."""
        place, frames = media.read_given(request, self._patching)
        canvas = conditions.canvas(place, frames, self._codec)
        return canvas.latent.numpy(), canvas.given.numpy(), conditioning(request, place, frames)

    def write(
        self,
        request: Request,
        denoised: Denoised,
        canvas: Any,
        target: Target,
        *,
        used: Request | None = None,
    ) -> dict[str, object]:
        """Decodes, encodes and commits the output, then creates the sidecar and returns it.

        The sidecar marks the request as finished. If attempts race, one creates it, and all return that one.

        Args:
            used: the request with the prompt that was used, if prompts are rewritten.

        Raises:
            Rejected: FRAMES_REFUSED.
        """
        started = time.monotonic()
        decoded = _Timed(self._codec.decode(torch.tensor(denoised.latent)))
        made = self._patching.covering(request.size)
        frames = (frame for group in decoded for frame in group.cpu().numpy())
        shown = screened(conditions.crop(frames, request, made.n_frames), self._frames)
        content, suffix = mp4.media_bytes(shown, request.fps)
        content, provenance = self._signer.sign(content, suffix, claim(request, target))
        storage.put(target.location + suffix, content)
        timings = {
            "denoise": round(denoised.seconds, 3),
            "decode": round(decoded.seconds, 3),
            "write": round(time.monotonic() - started - decoded.seconds, 3),
        }
        about = {
            "prompt_used": used.prompt if used and used.prompt != request.prompt else None,
            "provenance": provenance,
            "changes": changes(request, self._patching, denoised.n_text, self._most_text),
            **put_conditioning(target.location, canvas[2] if canvas else []),
        }
        document = sidecar(request, target, suffix, timings) | about
        if storage.create(target.location + ".json", storage.json_bytes(document)):
            return document
        return storage.read_json(target.location + ".json")


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
