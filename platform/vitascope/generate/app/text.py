"""Prompts to token states."""

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text import make_text_encoder
from vitascope.generate.app.values import Text, device
from vitascope.generate.request import Request
from vitascope.generate.starting import starting


class TextEncode:
    """Prompts to token states."""

    def __init__(self, settings: EncodeSettings, gpus: float = 0) -> None:
        with starting("the text encoder"):
            self._encoder = make_text_encoder(settings, device(gpus))
            self._encoder.count(["ready"])  # otherwise every request would fail on a missing part

    def __call__(self, request: Request) -> Text:
        """The states of prompt and negative prompt."""
        texts = [request.prompt, request.negative_prompt]
        prompt, negative = self._encoder.encode(texts)
        n_prompt, n_negative = self._encoder.count(texts)
        return Text(prompt.numpy(), negative.numpy(), (n_prompt, n_negative))
