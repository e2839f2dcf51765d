"""Text encoders: captions to token states.

An encoder is one file with one class and a line in `TEXT_ENCODERS`.
"""

from collections.abc import Callable
from typing import Protocol

import torch

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

    @property
    def own_bytes(self) -> int:
        """The weights that each process on a CPU holds for itself, in bytes.

        None of those that are computed with as they are stored: processes share the pages of a file.
        """
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
