"""A language model of transformers in a folder."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from vitascope.caption.answers import Unusable
from vitascope.caption.local import LocalModel
from vitascope.precision import fastest


class TextModel(LocalModel):
    """Any causal language model with a chat template, read without network access; greedy decoding."""

    @torch.inference_mode()
    def _generate(self, batch: Sequence[tuple[list[bytes], str]]) -> list[str]:
        tokenizer, model = self._load()
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": text}] for _, text in batch],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        ).to(model.device)
        made = model.generate(**inputs, max_new_tokens=self._settings.max_tokens, do_sample=False)
        answers: list[str] = tokenizer.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return answers

    @functools.cache  # noqa: B019 - one model for the lifetime of a process
    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = str(self._settings.folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
        except (OSError, ValueError, KeyError) as error:
            raise Unusable(f"prompts.folder {folder} holds no language model: {error}") from None
        if not tokenizer.chat_template:
            raise Unusable(f"the tokenizer in prompts.folder {folder} has no chat template; add one")
        tokenizer.padding_side = "left"
        device = torch.device("cuda" if self._settings.use_gpu else "cpu")
        return tokenizer, model.to(device=device, dtype=fastest(device, model.dtype)).eval()
