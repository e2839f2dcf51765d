"""Prompts to token states."""

import time

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.app.shares import Takes
from vitascope.generate.app.values import Metered, Text, device
from vitascope.generate.request import Request
from vitascope.generate.sidecar import Spent
from vitascope.generate.starting import starting


class TextEncode(Metered):
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings, gpus: float = 0) -> None:
        super().__init__()
        with starting("the text encoder"):
            self._encoder = make_text_encoder(settings, device(gpus))
            self._encoder.count(["ready"])  # otherwise every request would fail on a missing part

    def __call__(self, request: Request, *, ready: float, takes: Takes) -> Text:
        """The states of prompt and negative prompt, asked for at the time of day `ready`."""
        started = time.time()
        with self.meter.doing(takes):
            texts = [request.prompt, request.negative_prompt]
            prompt, negative = self._encoder.encode(texts)
            n_prompt, n_negative = self._encoder.count(texts)
        spent = Spent.since(ready, started)
        return Text(prompt.numpy(), negative.numpy(), (n_prompt, n_negative), spent)
