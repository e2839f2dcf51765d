"""FLOPs of a forward pass, from sizes alone."""

from dataclasses import dataclass
from typing import Any

from vitascope.model.settings import ModelSettings


@dataclass(frozen=True)
class Cost:
    """Forward FLOPs of a sample of L patches and m text tokens: a·L + b·L² + c·L·m + d·m."""

    per_token: float
    per_token_squared: float
    per_pair: float
    per_text: float

    def of(self, n_tokens: Any, n_text: Any) -> Any:
        """FLOPs of one forward pass, for numbers or for arrays. A backward pass costs twice as much."""
        return (
            self.per_token * n_tokens
            + self.per_token_squared * (1.0 * n_tokens * n_tokens)
            + self.per_pair * (1.0 * n_tokens * n_text)
            + self.per_text * n_text
        )


def cost_of(model: ModelSettings, channels: int, text_dim: int) -> Cost:
    """The cost of `model`, counting only matrix products (2 FLOPs per multiply-add)."""
    width, depth = model.width, model.depth
    blocks = (
        depth * (8 + 4 + 4 * model.mlp_ratio) * width**2
    )  # self-attention, cross-attention's q and out, MLP
    return Cost(
        per_token=blocks + 6 * channels * model.patch**2 * width,
        per_token_squared=depth * 4 * width,
        per_pair=depth * 4 * width,
        per_text=depth * 4 * width**2 + 2 * text_dim * width,
    )
