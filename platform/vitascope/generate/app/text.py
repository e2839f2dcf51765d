"""Prompts to token states."""

from functools import lru_cache

import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.app.values import Text, device
from vitascope.generate.request import Request
from vitascope.generate.starting import starting

# Texts whose states are kept (8 MB each for T5-XXL): those of a batch often repeat, above all negative ones.
_KEPT = 16


class TextEncode:
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings, gpus: float = 0) -> None:
        with starting("the text encoder"):
            self._encoder = make_text_encoder(settings, device(gpus))
            self._encoder.count(["ready"])  # otherwise every request would fail on a missing part
        self._encoded = lru_cache(_KEPT)(self._encode)

    def __call__(self, request: Request) -> Text:
        """The states of prompt and negative prompt."""
        (prompt, n_prompt), (negative, n_negative) = map(
            self._encoded, (request.prompt, request.negative_prompt)
        )
        return Text(prompt.numpy(), negative.numpy(), (n_prompt, n_negative))

    def _encode(self, text: str) -> tuple[torch.Tensor, int]:
        return self._encoder.encode([text])[0], self._encoder.count([text])[0]
