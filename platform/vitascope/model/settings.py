"""Settings of the model."""

from pydantic import Field, model_validator

from vitascope.section import Section


class ModelSettings(Section):
    """Size of the diffusion transformer."""

    depth: int = Field(12, ge=1, description="Transformer blocks.")
    width: int = Field(768, ge=32, description="Channels of the residual stream.")
    heads: int = Field(12, ge=1, description="Attention heads; width / heads is a multiple of 8.")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of the MLP divided by the width.")
    patch: int = Field(2, ge=1, le=8, description="Side of a spatial patch in latent pixels.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelSettings":
        if self.width % self.heads or (self.width // self.heads) % 8:
            raise ValueError(
                f"width / heads must be a multiple of 8 for 3-D positions, got {self.width} / {self.heads}"
            )
        return self
