"""Ask a transformers model in a folder."""

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from vitascope.caption.answers import Unusable, caption_of
from vitascope.caption.settings import CaptionSettings
from vitascope.errors import in_a_line
from vitascope.ledger import Reason, Rejected
from vitascope.precision import fastest


class LocalModel:
    """Any image-text-to-text model of transformers, read from a local folder without network access."""

    def __init__(self, settings: CaptionSettings) -> None:
        self._settings = settings

    def ask(self, questions: Sequence[tuple[list[bytes], str]]) -> list[str | Rejected]:
        """The caption for each (JPEG files, prompt), or why there is none; greedy decoding.

        Raises:
            Unusable: the folder holds no such model.
        """
        self._load()
        size = self._settings.batch_size
        batches = (questions[start : start + size] for start in range(0, len(questions), size))
        return [outcome for batch in batches for outcome in self._outcomes(batch)]

    def _outcomes(self, batch: Sequence[tuple[list[bytes], str]]) -> Iterator[str | Rejected]:
        """The outcomes of a batch. If it fails, each question is asked alone: only the culprit fails."""
        try:
            answers = self._generate(batch)
        except (RuntimeError, ValueError, IndexError) as error:  # including out of memory, a RuntimeError
            if len(batch) > 1:
                for question in batch:
                    yield from self._outcomes([question])
            else:
                yield Rejected(Reason.CAPTION_FAILED, in_a_line(error))
            return
        for answer in answers:
            try:
                yield caption_of(answer, self._settings.refusal)
            except Rejected as rejected:
                yield rejected

    @torch.inference_mode()
    def _generate(self, batch: Sequence[tuple[list[bytes], str]]) -> list[str]:
        processor, model = self._load()
        inputs = processor.apply_chat_template(
            [[_message(pictures, prompt)] for pictures, prompt in batch],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device, dtype=model.dtype)
        made = model.generate(**inputs, max_new_tokens=self._settings.max_tokens, do_sample=False)
        answers: list[str] = processor.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return answers

    @functools.cache  # noqa: B019 - one model for the lifetime of a process
    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        folder = str(self._settings.folder)
        try:
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, dtype="auto"
            )
        except (OSError, ValueError, KeyError) as error:
            raise Unusable(f"caption.folder {folder} holds no image-text-to-text model: {error}") from None
        if not processor.chat_template:
            raise Unusable(f"the processor in caption.folder {folder} has no chat template; add one")
        processor.tokenizer.padding_side = "left"  # so that all answers of a batch start at the same position
        device = torch.device("cuda" if self._settings.use_gpu else "cpu")
        return processor, model.to(device=device, dtype=fastest(device, model.dtype)).eval()


def _message(pictures: list[bytes], prompt: str) -> dict[str, Any]:
    images = [{"type": "image", "image": Image.open(io.BytesIO(picture))} for picture in pictures]
    return {"role": "user", "content": [*images, {"type": "text", "text": prompt}]}
