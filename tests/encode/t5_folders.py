"""Tiny folders of UMT5 with a tokenizer that is trained here, as transformers writes them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

WORDS = [
    "a large grey rabbit stands in a sunny meadow",
    "traffic moves along a wide street at dusk",
    "<&> é — 9",
]


def write_umt5(folder: Path, *, dim: int = 32, seed: int = 0) -> Path:
    """Writes `text_encoder/` and `tokenizer/`, as in a pipeline's folder."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=dim, d_kv=8, d_ff=2 * dim, num_layers=2, num_heads=dim // 8
    )
    encoder = UMT5EncoderModel(config)
    for weight in encoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
