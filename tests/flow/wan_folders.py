"""Tiny pipelines of Wan with random weights, as diffusers writes them."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import AutoTokenizer, UMT5EncoderModel

from encode.t5_folders import write_umt5

TEXT_DIM = 32
SCHEDULERS = {
    "unipc": diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
VAES: dict[int, dict[str, Any]] = {
    16: {},
    48: {
        "z_dim": 48,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "is_residual": True,
        "scale_factor_spatial": 16,
        "decoder_base_dim": 8,
        "latents_mean": [0.1] * 48,
        "latents_std": [1.5] * 48,
    },
}
"""By the channels of their latents: 2.1's layout, and that of 2.2's TI2V-5B."""


def transformer(channels: int, seed: int = 0) -> diffusers.WanTransformer3DModel:
    """A network whose every weight is random, so that no zero hides anything."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=12,
        num_layers=2,
        ffn_dim=64,
        in_channels=channels,
        out_channels=channels,
        text_dim=TEXT_DIM,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=generator)
    return model


def write_pipeline(
    folder: Path, *, channels: int = 16, solver: str = "unipc", boundary: float | None = None
) -> Path:
    """Transformer, autoencoder, text encoder, tokenizer and scheduler; about 2 MB.

    With 48 channels it is of TI2V-5B's kind; with a boundary it has two experts, as A14B.
    """
    torch.manual_seed(0)
    write_umt5(folder / "text", dim=TEXT_DIM)
    pipeline = diffusers.WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "text" / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text" / "text_encoder"),
        transformer=transformer(channels),
        transformer_2=transformer(channels, seed=1) if boundary else None,
        vae=diffusers.AutoencoderKLWan(**{"base_dim": 8, "num_res_blocks": 1, "z_dim": 16} | VAES[channels]),
        scheduler=SCHEDULERS[solver],
        boundary_ratio=boundary,
        expand_timesteps=channels == 48,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
