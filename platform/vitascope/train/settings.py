"""Settings of training."""

from pydantic import Field

from vitascope.section import Execution, Section


class TrainSettings(Section):
    """Optimisation, checkpoints and workers."""

    ranks: Execution[int] = Field(
        2, ge=1, description="Ray Train workers; one GPU each where use_gpu is set."
    )
    use_gpu: Execution[bool] = Field(
        False, description="Run each rank on a GPU (nccl) instead of CPU cores (gloo)."
    )
    steps: int = Field(1000, ge=1, description="Global steps.")
    lr: float = Field(1e-4, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    final_lr_share: float = Field(
        0.1, ge=0, le=1, description="Learning rate at the end over the peak (cosine)."
    )
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float = Field(1.0, gt=0, description="Largest gradient norm.")
    bf16: bool = Field(True, description="Compute in bfloat16 with float32 master weights.")
    activation_checkpointing: Execution[bool] = Field(
        False, description="Recompute activations in the backward pass."
    )
    ema_decay: float = Field(0.999, ge=0, lt=1)
    text_dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of samples trained without their caption."
    )
    timestep_shift: float = Field(
        1.0,
        gt=0,
        description="Shift of the timesteps at 1,024 tokens; grows with the root of a sample's tokens.",
    )
    val_every: int = Field(200, ge=1, description="Steps between held-out losses.")
    checkpoint_every: Execution[int] = Field(200, ge=1, description="Steps between checkpoints.")
    checkpoints_kept: Execution[int] = Field(2, ge=1)
    max_failures: Execution[int] = Field(
        3, ge=0, description="Worker failures survived before the run gives up."
    )
