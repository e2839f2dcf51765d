"""FLOPs of a forward pass, from sizes alone."""

from dataclasses import dataclass
from typing import Any

BACKWARD_AND_FORWARD = 3  # a backward pass costs about twice its forward pass
WITHOUT_WEIGHTS = 2  # and as much as it if the weights are frozen, because their gradients are not computed


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
