"""What every network is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitascope.feed.packs import Pack
from vitascope.model.attention import Boundaries
from vitascope.model.cost import Cost
from vitascope.model.objective import Objective
from vitascope.model.settings import ModelSettings


class Rows(Enum):
    """What the rows of a layer's input are; TEXT_AND_ONE has one more for each segment, after its text or
    before it.
    """

    TOKENS, FRAMES, TEXT, TEXT_AND_ONE = "tokens", "frames", "text", "text and one"


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The inputs of every block of a pass in addition to the tokens.

    shared: (F, 6, width) modulation. frame: (N,) each token's frame. rope: cos and sin, (N, 1, head_dim / 2).
    text: (M, width) token states, with those that the network adds to each segment's. tokens, words: the
    segments' boundaries in the tokens and in the text.
    """

    shared: Tensor
    frame: Tensor
    rope: tuple[Tensor, Tensor]
    tokens: Boundaries
    text: Tensor
    words: Boundaries


class Network(nn.Module, ABC):
    """Predicts the velocity of every patch of a pack. Single-device code.

    A subclass takes the settings, the channels of a latent and the dimension of text states; its fresh
    weights follow from torch's seed. Its parameters are used only in the forward of the module that owns
    them, or of a leaf that contains that module: ZeRO-3 gathers them there.

    leaves: classes of submodules that ZeRO-3 gathers whole. One of a leaf's arguments is a tensor that
        requires a gradient: otherwise DeepSpeed reduces the leaf's gradients before they are computed.
    objective: how networks of this family are trained and sampled.
    kept_in_float32: modules and parameters, by their own names, that stay in float32 when a trained network
        is loaded in another format.
    adapted: the linear layers that get an adapter by default, by the end of their names.
    other_rows: the layers whose input's rows are not tokens, by parts of their names; the first match counts.
    blocks: the transformer blocks.
    activation_checkpointing: whether training recomputes each block in the backward pass.
    """

    leaves: ClassVar[tuple[type[nn.Module], ...]]
    objective: ClassVar[Objective]
    kept_in_float32: ClassVar[frozenset[str]] = frozenset()
    adapted: ClassVar[tuple[str, ...]]
    other_rows: ClassVar[dict[str, Rows]]
    blocks: nn.ModuleList

    @abstractmethod
    def __init__(self, settings: ModelSettings, channels: int, text_dim: int) -> None:
        super().__init__()
        self.activation_checkpointing = False

    @abstractmethod
    def forward(self, pack: Pack) -> Tensor:
        """Velocity noise - clean, (N, token_dim) float32, of the noised tokens in `pack`."""

    @staticmethod
    @abstractmethod
    def cost(settings: ModelSettings, channels: int, text_dim: int) -> Cost:
        """The FLOPs of a network of this size, counting only matrix products (2 a multiply-add)."""

    def through_blocks(self, x: Tensor, around: Surroundings) -> Tensor:
        """The tokens (N, width) after all blocks; `around` is the second argument of each."""
        x = into_leaf(x)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, around, use_reentrant=False)
            else:
                x = block(x, around)
        return x

    @classmethod
    def rows(cls, layer: str) -> Rows:
        """What the rows of the input of the linear layer of this name are."""
        return next(
            (rows for part, rows in cls.other_rows.items() if f".{part}." in f".{layer}."), Rows.TOKENS
        )


def into_leaf(x: Tensor) -> Tensor:
    """x, which requires a gradient if others do: see `Network.leaves`. It would not behind frozen layers."""
    return x if x.requires_grad or not torch.is_grad_enabled() else x.requires_grad_()
