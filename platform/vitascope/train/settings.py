"""Settings of training."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from vitascope.section import Execution, Section

NOT_FINITE_IN_A_ROW = 3
"""Consecutive steps with a loss or gradient that is not finite, after which a run ends: a single one comes
from a sample and passes, several in a row come from the weights or the learning rate."""

Conditioning = Literal["none", "first", "all"]
"""The conditioning frames that samples are trained with, by the name of their patterns
(`model.objective.PATTERNS`)."""

NoiseRange = tuple[float, float]
"""The lowest and the highest of the noise levels that a network is trained at."""

ALL_LEVELS: NoiseRange = (0.0, 1.0)
_NARROWEST = 0.01


class TrainSettings(Section):
    """Optimisation, checkpoints and workers."""

    renamed: ClassVar = {
        "bf16": lambda on: (
            f'precision; write precision = "{"bf16" if on in (True, "true") else "float32"}", or "auto"'
        )
    }

    ranks: Execution[int] = Field(2, ge=1, description="Ray Train workers; one GPU each if use_gpu is set.")
    use_gpu: Execution[bool] = Field(
        False, description="Run each rank on a GPU (nccl) instead of CPU cores (gloo)."
    )
    steps: int = Field(1000, ge=1, description="Global steps.")
    lr: float = Field(1e-4, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    final_lr_share: float = Field(
        0.1, ge=0, le=1, description="Final learning rate divided by the peak (cosine)."
    )
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    precision: Literal["auto", "bf16", "float32"] = Field(
        "auto",
        description="Number format of the computation, next to float32 master weights; auto: that of the "
        "checkpoint; without one, bf16 if every rank's GPU or processor has it, and float32 if not.",
    )
    on_not_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="A step whose loss or gradient is not finite changes nothing and is counted; stop ends "
        f"the run after {NOT_FINITE_IN_A_ROW} of them in a row.",
    )
    activation_checkpointing: Execution[bool] = Field(
        False, description="Recompute activations in the backward pass."
    )
    ema_decay: float = Field(0.999, ge=0, lt=1)
    text_dropout: float = Field(
        0.1, ge=0, lt=1, description="Fraction of samples trained without their caption."
    )
    timestep_shift: float | None = Field(
        None,
        gt=0,
        description="Shift of the timesteps. For dit, the shift at 1,024 tokens, by default 1; it grows with "
        "the root of the number of tokens. For wan, the same for every size, by default 5.",
    )
    conditioning_frames: Literal["auto", "none", "first", "all"] = Field(
        "auto",
        description="Conditioning frames of half of the samples: none; first: the first latent frame; all: "
        "beginnings, ends, both, and any frames; auto: all for dit, the first for networks of Wan with a "
        "timestep for each frame (TI2V-5B), none for the others.",
    )
    noise_range: NoiseRange = Field(
        ALL_LEVELS,
        description="Lowest and highest noise level to train at, after the shift; an expert of Wan 2.2 needs "
        "its own, [0.875, 1.0] (transformer) or [0.0, 0.875] (transformer_2).",
    )
    val_every: int = Field(200, ge=1, description="Steps between held-out losses.")
    checkpoint_every: Execution[int] = Field(200, ge=1, description="Steps between checkpoints.")
    checkpoints_kept: Execution[int] = Field(2, ge=1)
    max_failures: Execution[int] = Field(3, ge=0, description="Worker failures before the run gives up.")

    @field_validator("noise_range")
    @classmethod
    def _some_levels(cls, levels: NoiseRange) -> NoiseRange:
        low, high = levels
        if not 0 <= low <= high - _NARROWEST <= 1 - _NARROWEST:
            raise ValueError(
                f"expected two noise levels from 0 to 1, at least {_NARROWEST} apart, the lower one first"
            )
        return levels
