"""A tiny pipeline of Wan 2.1 with random weights, as diffusers writes it."""

from pathlib import Path

import diffusers
import torch
from transformers import AutoTokenizer, UMT5EncoderModel

from encode.t5_folders import write_umt5

TEXT_DIM = 32


def write_pipeline(folder: Path, *, boundary: float | None = None) -> Path:
    """A whole pipeline of about 2 MB; with a boundary it has two experts, as A14B."""
    torch.manual_seed(0)
    write_umt5(folder / "text", dim=TEXT_DIM)
    pipeline = diffusers.WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "text" / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text" / "text_encoder"),
        transformer=_transformer(),
        transformer_2=_transformer() if boundary else None,
        boundary_ratio=boundary,
        vae=diffusers.AutoencoderKLWan(base_dim=8, num_res_blocks=1, z_dim=16),
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def _transformer() -> diffusers.WanTransformer3DModel:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=12,
        num_layers=2,
        ffn_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
    )
