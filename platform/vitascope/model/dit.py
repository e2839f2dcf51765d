"""The diffusion transformer, for packs of mixed sizes."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitascope.feed.packs import Pack
from vitascope.model.attention import Boundaries, attention
from vitascope.model.cost import Cost
from vitascope.model.network import Network, Rows, Surroundings, into_leaf
from vitascope.model.objective import Objective
from vitascope.model.rope import Axes, angles, rotate
from vitascope.model.settings import ModelSettings

SMALLEST_TIMESTEP = 0.05
"""Below this level errors of the clean patch are no longer magnified in the velocity.

The sampler's last jump, to the predicted patch, starts no lower. That leaves a floor, whatever the number of
steps: of detail with standard deviation s, an ideal model keeps the fraction (1 - t) s / √((1 - t)² s² + t²)
when it jumps from t. From 0.05 this is 0.88 for s = 0.1, 0.49 for 0.03, 0.19 for 0.01; from 0.01 it would be
0.995, 0.95 and 0.70. But errors are magnified by 1 / t in the velocity, so that with 0.01 the few samples at
the lowest levels outweigh all others in the loss, up to 25 times as much as with 0.05. The demo's held-out
error of the patch was the same with both at each level, within 1.5 %; a small model on few samples learned
nothing with 0.01 in 30 steps.
"""
PLACE_OCTAVES = 7
PLACE_FEATURES = 2 * 3 * PLACE_OCTAVES


class Condition(nn.Module):
    """Each latent frame's embedding of its timestep and caption."""

    def __init__(self, width: int, n_frequencies: int = 128) -> None:
        super().__init__()
        self.n_frequencies = n_frequencies
        self.timestep = nn.Sequential(nn.Linear(2 * n_frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.caption = nn.Linear(width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, timesteps: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding (F, width) and modulation (F, 6, width), from timesteps (F,) and captions (F, width)."""
        embedding = self.timestep(sinusoid(timesteps, self.n_frequencies).to(caption.dtype)) + self.caption(
            caption
        )
        return embedding, self.modulation(F.silu(embedding)).unflatten(1, (6, -1))


class Block(nn.Module):
    """Self-attention within a segment, cross-attention to its text, MLP."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.heads = settings.heads
        self.head_dim = width // settings.heads
        self.table = nn.Parameter(torch.zeros(6, width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(self.head_dim)
        self.k_norm = nn.RMSNorm(self.head_dim)
        self.attention_out = nn.Linear(width, width)
        self.text_q = nn.Linear(width, width)
        self.text_kv = nn.Linear(width, 2 * width)
        self.text_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
        )
        nn.init.zeros_(self.text_out.weight)
        nn.init.zeros_(self.text_out.bias)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """x plus the block's output, (N, width)."""
        modulation = (around.shared + self.table).unbind(1)  # six of F width
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            part.index_select(0, around.frame) for part in modulation
        )  # N width each
        x = x + gate1 * self._self_attention(self.norm1(x) * (1 + scale1) + shift1, around)
        x = x + self._cross_attention(self.norm2(x), around)
        return x + gate2 * self.mlp(self.norm3(x) * (1 + scale2) + shift2)

    def _self_attention(self, x: Tensor, around: Surroundings) -> Tensor:
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, self.head_dim)).unbind(1)  # N heads head_dim
        q, k = rotate(self.q_norm(q), *around.rope), rotate(self.k_norm(k), *around.rope)
        return self.attention_out(attention(q, k, v, (around.tokens, around.tokens)).flatten(1))

    def _cross_attention(self, x: Tensor, around: Surroundings) -> Tensor:
        q = self.text_q(x).unflatten(1, (self.heads, self.head_dim))
        k, v = self.text_kv(around.text).unflatten(1, (2, self.heads, self.head_dim)).unbind(1)
        return self.text_out(attention(q, k, v, (around.tokens, around.words)).flatten(1))


class DiT(Network):
    """Predicts the velocity of every patch of a pack.

    A DiT (Peebles & Xie 2023) with the shared modulation of PixArt-α (Chen et al. 2023, section 2.3),
    QK-norm, 3-D rotary positions, and text by cross-attention. The timestep modulates each latent frame
    separately, so that conditioning frames (timestep 0) and generated frames are in one sequence.

    The network predicts the clean patch, and the velocity follows from it: noise fills all of a patch's
    dimensions, which may outnumber the width, while pictures do not (Li & He 2025, "Back to Basics"). Each
    token also sees the patch at its position in the nearest conditioning frame, and a learned fraction of
    that patch is added to the prediction, so that detail of conditioning frames bypasses the width.
    """

    leaves: ClassVar = (Block, Condition)
    objective: ClassVar = Objective(
        shift=1.0, shift_grows=True, smallest_timestep=SMALLEST_TIMESTEP, conditioning="all"
    )
    adapted: ClassVar = ("qkv", "attention_out", "text_q", "text_kv", "text_out", "mlp.0", "mlp.2")
    other_rows: ClassVar = {
        "text": Rows.TEXT,
        "text_kv": Rows.TEXT_AND_ONE,
        "condition": Rows.FRAMES,
        "copied": Rows.FRAMES,
    }

    def __init__(self, settings: ModelSettings, channels: int, text_dim: int) -> None:
        super().__init__(settings, channels, text_dim)
        width, token_dim = settings.width, channels * settings.patch**2
        self.head_dim = width // settings.heads
        self.embed = nn.Linear(token_dim, width)
        self.given = nn.Linear(token_dim, width, bias=False)
        self.place = nn.Linear(PLACE_FEATURES, width)
        self.text = nn.Linear(text_dim, width)
        self.no_text = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.condition = Condition(width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.out_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out_table = nn.Parameter(torch.zeros(2, width))
        self.out = nn.Linear(width, token_dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.copied = nn.Linear(width, token_dim)
        nn.init.zeros_(self.copied.weight)
        nn.init.zeros_(self.copied.bias)

    def forward(self, pack: Pack) -> Tensor:
        """Velocity noise - clean, (N, token_dim) float32, of the noised tokens in `pack`."""
        dtype = self.embed.weight.dtype
        given = given_tokens(pack).to(dtype)  # N token_dim
        tokens, places = pack.tokens.to(dtype), place(pack).to(dtype)
        x = self.embed(tokens) + self.given(given) + self.place(places)  # N width
        text, text_boundaries = self._text_states(pack)  # M + S width
        caption = _pool(text, text_boundaries)[pack.segment_of_frame]  # F width
        condition, shared = self.condition(pack.timesteps, into_leaf(caption))  # F width, F 6 width
        theta = angles(pack.positions, axis_channels(self.head_dim))[:, None]  # N 1 head_dim/2
        around = Surroundings(
            shared=shared,
            frame=pack.frame_of_token,
            rope=(theta.cos().to(dtype), theta.sin().to(dtype)),
            tokens=Boundaries.of(pack.lengths, x.device),
            text=text,
            words=text_boundaries,
        )
        x = self.through_blocks(x, around)
        shift, scale = (condition[:, None] + self.out_table).unbind(1)  # F width
        x = self.out_norm(x) * (1 + scale[pack.frame_of_token]) + shift[pack.frame_of_token]
        copied = self.copied(F.silu(condition)).index_select(0, pack.frame_of_token)  # N token_dim
        return velocity(pack, self.out(x) + copied * given)

    @staticmethod
    def cost(settings: ModelSettings, channels: int, text_dim: int) -> Cost:
        """Without the learned text token and the modulation of each frame, which cost a few per cent."""
        width, depth = settings.width, settings.depth
        per_block = 12 * width**2 + 4 * settings.hidden * width  # attention, cross-attention's q and out, MLP
        return Cost(
            per_token=depth * per_block + 6 * channels * settings.patch**2 * width,
            per_token_squared=depth * 4 * width,
            per_pair=depth * 4 * width,
            per_text=depth * 4 * width**2 + 2 * text_dim * width,
        )

    def _text_states(self, pack: Pack) -> tuple[Tensor, Boundaries]:
        """Each segment's text after one learned token, which is all an unconditional segment has."""
        lengths = pack.text_lengths
        words = self.text(pack.text.to(self.no_text.dtype))
        states = torch.cat([self.no_text.expand(pack.n_segments, -1), words])
        owner = torch.cat([torch.arange(pack.n_segments, device=lengths.device), _owners(lengths)])
        order = owner.argsort(stable=True)
        return states[order], Boundaries.of((lengths + 1).tolist(), states.device)


def axis_channels(head_dim: int) -> Axes:
    """How many of a head's channels rotate with each axis, about 2:3:3."""
    space = 2 * (3 * head_dim // 16)
    return head_dim - 2 * space, space, space


def given_tokens(pack: Pack) -> Tensor:
    """The patch at each token's position in the nearest conditioning frame, (N, token_dim), else zeros."""
    nearest = pack.nearest_given
    return pack.tokens[nearest.clamp(min=0)] * (nearest >= 0)[:, None]


def place(pack: Pack) -> Tensor:
    """Each token's position in its own frame and time: features (N, PLACE_FEATURES), float32.

    Rotary positions encode the distance between tokens; these, octaves of sines over the height and width of
    the frame and over 64 latent frames, encode each token's absolute position, whatever the size.
    """
    extent = pack.grids[pack.segment_of_token].float()  # N 3
    extent[:, 0] = 64.0
    phase = torch.pi * (pack.positions + 0.5) / extent  # N 3
    octaves = 2.0 ** torch.arange(PLACE_OCTAVES, device=phase.device)
    phases = (phase[:, :, None] * octaves).flatten(1)
    return torch.cat([phases.sin(), phases.cos()], dim=1)


def velocity(pack: Pack, clean: Tensor) -> Tensor:
    """The velocity (x_t - x_0) / t that leads from `clean` (N, token_dim) to the pack's tokens; float32."""
    timesteps = pack.timesteps[pack.frame_of_token, None].clamp(min=SMALLEST_TIMESTEP)
    return (pack.tokens.float() - clean.float()) / timesteps


def sinusoid(timesteps: torch.Tensor, n_frequencies: int, longest_period: float = 10_000.0) -> torch.Tensor:
    """Sine and cosine features (F, 2 n) of timesteps in 0…1, scaled to 0…1000 as is usual."""
    exponent = torch.arange(n_frequencies, device=timesteps.device, dtype=torch.float32) / n_frequencies
    phase = 1000 * timesteps.float()[:, None] * longest_period**-exponent
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def _pool(text: Tensor, boundaries: Boundaries) -> Tensor:
    """Mean text state of each segment, (S, width)."""
    return torch.stack([states.mean(dim=0) for states in text.split(list(boundaries.lengths))])


def _owners(lengths: Tensor) -> Tensor:
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
