"""Text encoders: captions to token states.

An encoder is one file with one class and a line in `TEXT_ENCODERS`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch
from cachetools import LRUCache

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text.hf import HfText
from vitascope.encode.text.minilm import MiniLm


class TextEncoder(Protocol):
    """Turns captions into the states of their tokens."""

    dim: int

    @property
    def fingerprint(self) -> str:
        """Changes with everything that shapes a state."""
        ...

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """Per caption float32 (n_tokens, dim), of its real tokens only.

        An empty caption gives what stands for no caption: (0, dim), unless models are trained with a token.
        """
        ...

    def count(self, captions: list[str]) -> list[int]:
        """The tokens of each caption before it is cut."""
        ...


TEXT_ENCODERS: dict[str, Callable[[EncodeSettings, torch.device], TextEncoder]] = {
    "minilm": MiniLm,
    "hf": HfText,
}


def make_text_encoder(settings: EncodeSettings, device: torch.device | None = None) -> TextEncoder:
    """The text encoder named by `settings.text_encoder`, by default on the CPU."""
    return TEXT_ENCODERS[settings.text_encoder](settings, device or torch.device("cpu"))


class TextStates:
    """An encoder that keeps the states of the captions used last, so that it computes each once."""

    def __init__(self, encoder: TextEncoder, max_bytes: int = 256 << 20) -> None:
        self.dim = encoder.dim
        self._encoder = encoder
        self._kept = LRUCache[str, torch.Tensor](max_bytes, getsizeof=lambda states: states.nbytes)

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """As TextEncoder's."""
        states = {caption: self._kept[caption] for caption in captions if caption in self._kept}
        new = sorted(set(captions) - states.keys())
        states |= zip(new, self._encoder.encode(new), strict=True)
        for caption in dict.fromkeys(captions):
            with suppress(ValueError):  # larger than all the room
                self._kept[caption] = states[caption]
        return [states[caption] for caption in captions]
