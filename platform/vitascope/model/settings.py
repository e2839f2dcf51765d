"""Settings of the model."""

from typing import Literal

from pydantic import Field, model_validator

from vitascope.section import Location, Section


class LoraSettings(Section):
    """Low-rank adapters, trained in place of the network's own weights."""

    rank: int = Field(16, ge=1, le=4096, description="Rank of each adapter.")
    alpha: float = Field(16.0, gt=0, description="An adapter's output is multiplied by alpha / rank.")
    targets: tuple[str, ...] = Field(
        (),
        description="Linear layers that get an adapter, by the end of their names, such as to_q or "
        "attn1.to_q; by default those of attention and MLP in every block.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the adapters' inputs in training.")

    @property
    def scale(self) -> float:
        """The factor of an adapter's output."""
        return self.alpha / self.rank


class ModelSettings(Section):
    """Size of the diffusion transformer."""

    network: Literal["dit", "wan"] = Field(
        "dit", description="dit: the small network; wan: that of Wan 2.1 and 2.2, whose weights it can load."
    )
    depth: int = Field(12, ge=1, description="Transformer blocks.")
    width: int = Field(768, ge=32, description="Channels of the residual stream.")
    heads: int = Field(
        12,
        ge=1,
        description="Attention heads; width / heads is a multiple of 8; for wan, even and at least 6.",
    )
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of the MLP divided by the width.")
    ffn: int | None = Field(
        None, ge=1, description="Hidden width of the MLP; by default mlp_ratio times the width."
    )
    start_from: Location | None = Field(
        None,
        description="Weights to start from: a folder or a safetensors file as published, or the model folder "
        "of another run; network, depth, width, heads and ffn follow from it. By default fresh weights.",
    )
    lora: LoraSettings | None = Field(
        None,
        description="Train adapters of the weights in start_from, which are left unchanged. By default all "
        "weights are trained.",
    )
    patch: int = Field(2, ge=1, le=8, description="Side of a spatial patch in latent pixels.")

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP."""
        return int(self.width * self.mlp_ratio) if self.ffn is None else self.ffn

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelSettings":
        head_dim, rest = divmod(self.width, self.heads)
        wan = self.network == "wan"
        if rest or (head_dim % 2 or head_dim < 6 if wan else head_dim % 8):
            expected = "even and 6 or more" if wan else "a multiple of 8"
            raise ValueError(
                f"width / heads must be {expected} for 3-D positions, got {self.width} / {self.heads}"
            )
        return self
