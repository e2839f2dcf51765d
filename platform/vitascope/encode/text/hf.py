"""T5 and UMT5 from a folder, as video models use them."""

import functools
import html
from math import prod
from typing import Any

import ftfy
import torch

from vitascope import storage
from vitascope.encode import published
from vitascope.encode.machine import local_copy
from vitascope.encode.settings import EncodeSettings
from vitascope.encode.text.loading import quiet_transformers
from vitascope.errors import Missing, Mistake
from vitascope.precision import DTYPES
from vitascope.records import stable_id
from vitascope.weights import read_header

MODELS = {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}
"""transformers' encoder for each `model_type` of a config.json."""
CLEANING = "ftfy, twice unescaped, single blanks"
"""What `cleaned` does; part of the fingerprint."""
_SETTING = "encode.text_folder"
_REMEDY = f"copy the folder again, or correct {_SETTING}"
_FORMATS = {"float32": "F32", "bf16": "BF16"}


class HfText:
    """The last states of a T5 or UMT5 encoder for each token of a caption, the end token included.

    An empty caption is its end token alone, which is what video models see in place of a caption. Captions
    are cleaned as for the training of these models, and encoded at their own length, without padding.
    """

    def __init__(self, settings: EncodeSettings, device: torch.device) -> None:
        folder = storage.absolute(settings.text_folder or "")
        self._device, self._max_tokens = device, settings.max_text_tokens
        self._precision = settings.text_precision
        self._model_folder = published.part(folder, "text_encoder")
        self._tokenizer_folder = published.part(folder, "tokenizer")
        config = published.config_of(self._model_folder, _SETTING)
        self._model_type = str(config.get("model_type"))
        if self._model_type not in MODELS:
            raise Mistake(
                f"{self._model_folder} holds a model of type {self._model_type}, and text_encoder hf reads "
                f"{' and '.join(MODELS)}; correct {_SETTING}"
            )
        self.dim = int(config["d_model"])
        self._weights = published.weight_files(self._model_folder, _SETTING)
        self._files = [
            storage.join(self._model_folder, "config.json"),
            *self._weights,
            *_tokenizer_files(self._tokenizer_folder),
        ]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of weights, tokenizer, cleaning, precision and the length captions are cut to."""
        rules = (CLEANING, self._precision, self._max_tokens)
        return stable_id("hf", *rules, *map(published.content_hash, self._files))

    @functools.cached_property
    def own_bytes(self) -> int:
        """The weights in bytes if they are converted when loaded, else 0: then processes share them."""
        tensors = [one for file in self._weights for one in read_header(file, _REMEDY).values()]
        size, dtype = sum(prod(one.shape) for one in tensors), DTYPES[self._precision]
        stored = {one.format for one in tensors}
        return 0 if stored == {_FORMATS[self._precision]} else size * dtype.itemsize

    def encode(self, captions: list[str]) -> list[torch.Tensor]:
        """Per caption float32 (n_tokens, dim), bit-identical whatever else is in the batch: one at a time."""
        return [
            self._states([*self._tokens(caption)[: self._max_tokens - 1], self._end]) for caption in captions
        ]

    def count(self, captions: list[str]) -> list[int]:
        """The tokens of each caption before it is cut, with the end token."""
        return [len(self._tokens(caption)) + 1 for caption in captions]

    def _tokens(self, caption: str) -> list[int]:
        """Of the cleaned caption, without the end token."""
        ids = self._tokenizer(cleaned(caption), add_special_tokens=False, verbose=False)["input_ids"]
        return list(ids)

    @property
    def _end(self) -> int:
        return int(self._tokenizer.eos_token_id)

    @torch.no_grad()
    def _states(self, tokens: list[int]) -> torch.Tensor:
        states: torch.Tensor = self._model(torch.tensor([tokens], device=self._device)).last_hidden_state[0]
        return states.float().cpu()

    @functools.cached_property
    def _tokenizer(self) -> Any:
        with quiet_transformers():
            from transformers import AutoTokenizer

            folder = str(local_copy(self._tokenizer_folder))
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @functools.cached_property
    def _model(self) -> Any:
        with quiet_transformers():
            import transformers

            model = getattr(transformers, MODELS[self._model_type]).from_pretrained(
                str(local_copy(self._model_folder)),
                local_files_only=True,
                use_safetensors=True,
                dtype=DTYPES[self._precision],
            )
        return model.eval().to(self._device)


def cleaned(caption: str) -> str:
    """The caption with broken Unicode mended, HTML entities replaced and runs of white space as one blank."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())


def _tokenizer_files(folder: str) -> list[str]:
    names = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")
    found = [location for name in names if storage.exists(location := storage.join(folder, name))]
    if not found:
        raise Missing(
            f"no tokenizer in {folder}: expected {names[0]} or {names[1]}; {_SETTING} names a folder with "
            "the text encoder's tokenizer in it, or in `tokenizer/`"
        )
    return found
