"""The networks and packs of gpu.py, and what memory they should need."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import prod

import torch
from wan_forward import Sample, Shapes

from vitascope.feed.patches import Grid
from vitascope.model.network import Network
from vitascope.model.networks import build, cost_of
from vitascope.model.settings import ModelSettings

CAPTIONS = (12, 40, 77, 150)


@dataclass(frozen=True)
class Sizes:
    """A network, packs of equally many tokens by name, and half of the mix."""

    settings: ModelSettings
    channels: int
    text_dim: int
    packs: dict[str, list[Grid]]
    half: list[Grid]
    requests: tuple[Grid, Grid]  # a small one and a large one

    def samples(self, grids: Sequence[Grid]) -> list[Sample]:
        """Random ones, with captions of different lengths."""
        shapes = Shapes(self.settings, self.channels, self.text_dim, grids[0], tuple(grids), CAPTIONS)
        return shapes.samples(grids, list(islice(cycle(CAPTIONS), len(grids))))

    def network(self, device: torch.device, dtype: torch.dtype) -> Network:
        """Random weights; no velocity is zero."""
        torch.manual_seed(0)
        with device:
            model = build(self.settings, self.channels, self.text_dim)
            torch.nn.init.normal_(model.proj_out.weight, std=0.02)
        return model.to(dtype)

    def flops(self, samples: Sequence[Sample]) -> float:
        """Of a forward pass."""
        cost = cost_of(self.settings, self.channels, self.text_dim)
        return sum(cost.of(prod(sample.grid), len(sample.text)) for sample in samples)


FRAME, HALF_FRAME = (30, 52), (20, 26)  # patches of 480 x 832 pixels; of fewer
SMALL = Sizes(
    ModelSettings(network="wan", depth=30, width=1536, heads=12, ffn=8960),
    channels=16,
    text_dim=4096,
    packs={  # 32,760 tokens each: 81 frames at 480p
        "images": [(1, *FRAME)] * 21,
        "short_videos": [(7, *FRAME)] * 3,
        "one_video": [(21, *FRAME)],
        "mix": [(9, *FRAME), (5, *FRAME), *[(1, *FRAME)] * 3, (9, *HALF_FRAME), (3, *HALF_FRAME)],
    },
    half=[(7, *FRAME), *[(1, *FRAME)] * 2, (3, *HALF_FRAME), (1, 30, 26)],
    requests=((1, 16, 16), (5, *FRAME)),
)
LARGE = Sizes(
    ModelSettings(network="wan", depth=30, width=3072, heads=24, ffn=14336),
    channels=48,
    text_dim=4096,
    packs={  # 27,280 tokens each: 121 frames at 704 x 1280
        "one_video": [(31, 22, 40)],
        "mix": [(13, 22, 40), (9, 22, 40), *[(1, 22, 40)] * 4, (5, 22, 40)],
    },
    half=[(13, 22, 40), *[(1, 22, 40)] * 2, (1, 11, 40)],
    requests=((1, 16, 16), (5, 22, 40)),
)
TOY = Sizes(
    ModelSettings(network="wan", depth=2, width=48, heads=2, ffn=96),
    channels=4,
    text_dim=32,
    packs={  # 48 tokens each
        "images": [(1, 3, 4)] * 4,
        "short_videos": [(2, 3, 4)] * 2,
        "one_video": [(4, 3, 4)],
        "mix": [(2, 3, 4), (1, 3, 4), (3, 2, 2)],
    },
    half=[(1, 3, 4), (3, 2, 2)],
    requests=((1, 2, 2), (2, 3, 4)),
)


def forward_bytes(sizes: Sizes, n_tokens: int) -> int:
    """Peak memory of a forward pass without gradients: bf16 weights, and what is alive in a block at most.

    That is per token, for a width w and a hidden width f: six float32 modulations gathered from the frames
    (24 w), the residual stream (2 w), and then either what attention and its positions need (18 w) or the
    input of the MLP (2 w) and its hidden layer before and after GELU (4 f).
    """
    width, hidden = sizes.settings.width, sizes.settings.hidden
    return 2 * n_weights(sizes) + n_tokens * max(44 * width, 28 * width + 4 * hidden)


def training_bytes(sizes: Sizes, n_tokens: int, *, checkpointing: bool) -> int:
    """Peak memory of a training step on one GPU.

    18 bytes a weight: bf16 weights, float32 masters, two moments and EMA. Then the larger of the float32
    gradients at the update, and of the bf16 gradients with everything that is kept for the backward pass:
    `saved_by_block` in every block or, with checkpointing, in one, and 2 w per token for the others' inputs.
    """
    weights, depth = n_weights(sizes), sizes.settings.depth
    saved = n_tokens * saved_by_block(sizes.settings)
    inputs = n_tokens * 2 * sizes.settings.width
    kept = saved + depth * inputs if checkpointing else depth * saved
    return 18 * weights + max(4 * weights, 2 * weights + kept)


def saved_by_block(settings: ModelSettings) -> int:
    """Bytes per token that a block of Wan keeps for its backward pass in bf16: 68 w + 4 f.

    Both modulated inputs keep three float32 tensors and the bf16 result (14 w each); both gated outputs keep
    two float32 ones (8 w each); the affine norm 6 w, self-attention 12 w, cross-attention 6 w, and the MLP
    its hidden layer before and after GELU (4 f). Text, modulation per frame and statistics are left out.
    """
    return 68 * settings.width + 4 * settings.hidden


def n_weights(sizes: Sizes) -> int:
    """Elements of all weights."""
    with torch.device("meta"):
        model = build(sizes.settings, sizes.channels, sizes.text_dim)
    return sum(weight.numel() for weight in model.parameters())
