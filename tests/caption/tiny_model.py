"""A vision-language model with random weights, small enough to make in a test."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
_WORDS = [*_SPECIAL, "What", "is", "it", "?", *(f"word{i}" for i in range(60))]
_TEMPLATE = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def save_tiny_model(folder: Path, chat_template: str | None = _TEMPLATE) -> None:
    """Writes model, tokenizer and processor as transformers does. Pictures have 16 pixels and 4 patches."""
    _processor(chat_template).save_pretrained(folder)
    torch.manual_seed(0)
    # Weights so large that the output depends on the picture; no end token, so that the output is long.
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "initializer_range": 1.0}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, num_hidden_layers=2, **small),
        text_config=LlamaConfig(vocab_size=len(_WORDS), num_hidden_layers=2, eos_token_id=None, **small),
        image_token_id=_WORDS.index("<image>"),
        image_seq_length=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)


def _processor(chat_template: str | None) -> LlavaProcessor:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
