"""Prompts to token states."""

import time
from functools import lru_cache

import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.values import Metered, Text, device
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.generate.starting import starting

# Texts whose states are kept (8 MB each for T5-XXL): those of a batch often repeat, above all negative ones.
_KEPT = 16


class TextEncode(Metered):
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings, gpus: float = 0) -> None:
        super().__init__()
        with starting("the text encoder"):
            self._encoder = make_text_encoder(settings, device(gpus))
            self._encoder.count(["ready"])  # otherwise every request would fail on a missing part
        self._encoded = lru_cache(_KEPT)(self._encode)

    def __call__(self, request: Request, *, ready: float, takes: Takes) -> Text:
        """The states of prompt and negative prompt, asked for at the time of day `ready`."""
        started = time.time()
        with self.meter.doing(takes):
            texts = request.prompt, request.negative_prompt
            (prompt, n_prompt), (negative, n_negative) = map(self._encoded, texts)
        spent = Spent.since(ready, started)
        return Text(prompt.numpy(), negative.numpy(), (n_prompt, n_negative), spent)

    def _encode(self, text: str) -> tuple[torch.Tensor, int]:
        return self._encoder.encode([text])[0], self._encoder.count([text])[0]
