"""The transformer of Wan 2.1 and 2.2, for packs of mixed sizes."""

import math
from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitascope.feed.packs import Pack
from vitascope.model.attention import Boundaries, attention
from vitascope.model.cost import Cost
from vitascope.model.network import Network, Rows, Surroundings
from vitascope.model.objective import Objective
from vitascope.model.rope import Axes, angles, rotate_neighbours
from vitascope.model.settings import ModelSettings

TEXT_POSITIONS = 512
"""Every caption is padded to this length with zeros, which have no mask: they are part of the network."""
TIME_FEATURES = 256
EPS = 1e-6


class Linear(nn.Linear):
    """A linear layer with the initial weights of Wan's.

    They are drawn within the constructor, after which ZeRO-3 may divide them over the ranks.
    """

    def reset_parameters(self) -> None:
        """Draws the weights; the bias is zero."""
        self.draw(self.weight)
        nn.init.zeros_(self.bias)

    @staticmethod
    def draw(weight: Tensor) -> None:
        """Draws the weight in place."""
        nn.init.xavier_uniform_(weight)


class SmallLinear(Linear):
    """One of the embedding of timesteps and text."""

    @staticmethod
    def draw(weight: Tensor) -> None:
        """Draws the weight in place."""
        nn.init.normal_(weight, std=0.02)


class ZeroLinear(Linear):
    """The last one: a fresh network predicts zero."""

    @staticmethod
    def draw(weight: Tensor) -> None:
        """Sets the weight to zero."""
        nn.init.zeros_(weight)


class Conditions(nn.Module):
    """Embeddings of timesteps and of text."""

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        self.time_embedder = TwoLayers((TIME_FEATURES, width), nn.SiLU())
        self.time_proj = Linear(width, 6 * width)
        self.text_embedder = TwoLayers((text_dim, width), nn.GELU(approximate="tanh"))

    def forward(self, timesteps: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding (F, width) and modulation (F, 6, width) of timesteps (F,), and text states (M, width).

        Timesteps are never rounded: in bfloat16, 0.9984 would become 1.
        """
        dtype = self.time_proj.weight.dtype
        features = time_features(timesteps).to(self.time_embedder.linear_1.weight.dtype)
        embedding = self.time_embedder(features).to(dtype)
        modulation = self.time_proj(F.silu(embedding)).unflatten(1, (6, -1))
        return embedding, modulation, self.text_embedder(text.to(dtype))


class TwoLayers(nn.Module):
    """Two linear layers around an activation; `dims` are those of the input and of the output."""

    def __init__(self, dims: tuple[int, int], activation: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = SmallLinear(dims[0], dims[1]), SmallLinear(dims[1], dims[1])
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(…, dims[1]) of (…, dims[0])."""
        return self.linear_2(self.activation(self.linear_1(x)))


class PatchEmbedding(nn.Module):
    """A linear layer over patches, with the weight of a convolution (width, C, 1, p, p)."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.empty(width, channels, 1, patch, patch))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.weight.flatten(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, width) of tokens (N, p p C): the weight has the channels first."""
        first = tokens.to(self.weight.dtype).unflatten(1, (-1, self.channels)).transpose(1, 2)  # N C pp
        return F.linear(first.flatten(1), self.weight.flatten(1), self.bias)


class Attention(nn.Module):
    """Attention with RMS norm of queries and keys over the whole width."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.norm_q, self.norm_k = nn.RMSNorm(width, eps=EPS), nn.RMSNorm(width, eps=EPS)

    def within(self, x: Tensor, around: Surroundings) -> Tensor:
        """Each segment's tokens attend to each other, (N, width)."""
        q, k, v = self._heads(x, x)
        q, k = rotate_neighbours(q, *around.rope), rotate_neighbours(k, *around.rope)
        return self.to_out[0](attention(q, k, v, (around.tokens, around.tokens)).flatten(1))

    def to_text(self, x: Tensor, around: Surroundings) -> Tensor:
        """Each segment's tokens attend to its text, (N, width)."""
        q, k, v = self._heads(x, around.text)
        return self.to_out[0](attention(q, k, v, (around.tokens, around.words)).flatten(1))

    def _heads(self, x: Tensor, source: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self.norm_q(self.to_q(x)), self.norm_k(self.to_k(source)), self.to_v(source)
        return tuple(part.unflatten(1, (self.heads, -1)) for part in (q, k, v))


class Mlp(nn.Module):
    """Two linear layers around GELU, with Diffusers' names."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        first = nn.Sequential(OrderedDict(proj=Linear(width, hidden), gelu=nn.GELU(approximate="tanh")))
        self.net = nn.Sequential(first, nn.Identity(), Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) of (N, width)."""
        return self.net(x)


class Block(nn.Module):
    """Self-attention within a segment, cross-attention to its text, MLP."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1, self.attn2 = Attention(settings), Attention(settings)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.ffn = Mlp(width, settings.hidden)

    def forward(self, x: Tensor, around: Surroundings) -> Tensor:
        """x plus the block's output, (N, width). Modulation, norms and sums are in float32, rounded once."""
        modulation = (self.scale_shift_table.float() + around.shared.float()).unbind(1)  # six of F width
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            part.index_select(0, around.frame) for part in modulation
        )  # N width each
        inner = modulated(x, shift1, scale1)
        x = (x.float() + self.attn1.within(inner, around).float() * gate1).to(x.dtype)
        inner = F.layer_norm(x.float(), x.shape[1:], self.norm2.weight.float(), self.norm2.bias.float(), EPS)
        x = x + self.attn2.to_text(inner.to(x.dtype), around)
        inner = modulated(x, shift2, scale2)
        return (x.float() + self.ffn(inner).float() * gate2).to(x.dtype)


class Wan(Network):
    """The text-to-video transformer of Wan 2.1 and 2.2 (Wan Team 2025), with Diffusers' parameter names.

    A pack's sample gets what Wan gives it alone. Each latent frame has its own timestep, as in Wan 2.2's
    TI2V-5B, in which conditioning frames (timestep 0) and generated frames are in one sequence; the other
    models have one for all frames.

    Fresh weights are those of Wan's own code: Xavier's uniform for linear layers, standard deviations of 0.02
    for the embeddings of time and text and of 1 / √width for the tables of shifts and scales, zeros for the
    output layer and the biases.
    """

    leaves: ClassVar = (Block,)
    objective: ClassVar = Objective(
        shift=5.0,
        shift_grows=False,
        smallest_timestep=0.0,
        conditioning="first",  # as TI2V-5B was made: text to video, and a first frame
        per_frame_channels=48,  # TI2V-5B's
    )
    kept_in_float32: ClassVar = frozenset({"time_embedder", "scale_shift_table", "norm2"})
    adapted: ClassVar = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    other_rows: ClassVar = {
        "attn2.to_k": Rows.TEXT_AND_ONE,
        "attn2.to_v": Rows.TEXT_AND_ONE,
        "text_embedder": Rows.TEXT_AND_ONE,
        "condition_embedder": Rows.FRAMES,
    }

    def __init__(self, settings: ModelSettings, channels: int, text_dim: int) -> None:
        super().__init__(settings, channels, text_dim)
        width, token_dim = settings.width, channels * settings.patch**2
        self.head_dim = width // settings.heads
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)
        self.patch_embedding = PatchEmbedding(channels, settings.patch, width)
        self.condition_embedder = Conditions(width, text_dim)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.proj_out = ZeroLinear(width, token_dim)

    def forward(self, pack: Pack) -> Tensor:
        """Velocity noise - clean, (N, token_dim) float32, of the noised tokens in `pack`.

        Raises:
            ValueError: a segment has more than 512 text tokens.
        """
        x = self.patch_embedding(pack.tokens)  # N width
        padded, words = pad_text(pack)
        embedding, shared, text = self.condition_embedder(pack.timesteps, padded)
        theta = angles(pack.positions, axis_channels(self.head_dim), torch.float64)[:, None]  # N 1 head_dim/2
        around = Surroundings(
            shared=shared,
            frame=pack.frame_of_token,
            rope=(theta.cos().float(), theta.sin().float()),
            tokens=Boundaries.of(pack.lengths, x.device),
            text=text,
            words=words,
        )
        x = self.through_blocks(x, around)
        table = self.scale_shift_table.float() + embedding.float()[:, None]  # F 2 width
        shift, scale = (part.index_select(0, pack.frame_of_token) for part in table.unbind(1))
        return self.proj_out(modulated(x, shift, scale)).float()

    @staticmethod
    def cost(settings: ModelSettings, channels: int, text_dim: int) -> Cost:
        """With 512 keys of text for each token, as on a GPU; on a CPU there is one for all pads.

        The modulation of each frame and the text's one pad are left out.
        """
        width, depth = settings.width, settings.depth
        per_block = 12 * width**2 + 4 * settings.hidden * width  # attention, cross-attention's q and out, MLP
        return Cost(
            per_token=depth * (per_block + 4 * width * TEXT_POSITIONS)
            + 4 * channels * settings.patch**2 * width,
            per_token_squared=depth * 4 * width,
            per_pair=0,
            per_text=depth * 4 * width**2 + 2 * (text_dim + width) * width,
        )


def axis_channels(head_dim: int) -> Axes:
    """How many of a head's channels rotate with each axis, about a third."""
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def time_features(timesteps: Tensor) -> Tensor:
    """Cosine and sine features (F, 256) of timesteps in 0…1, float32.

    Computed in Diffusers' order: rounded in another, phases of up to 1000 would differ by 1e-4.
    """
    n = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(n, device=timesteps.device).float() / n)
    phase = 1000 * timesteps.float()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def pad_text(pack: Pack) -> tuple[Tensor, Boundaries]:
    """Each segment's text and one row of zeros, (M + S, text_dim), and the boundaries, which count it often.

    Wan fills 512 positions with zeros. Their states are all equal, so one stands for them, repeated.

    Raises:
        ValueError: a segment has more than 512 text tokens.
    """
    lengths = pack.text_lengths.tolist()
    if max(lengths) > TEXT_POSITIONS:
        raise ValueError(
            f"wan takes texts of up to {TEXT_POSITIONS} tokens, got one of {max(lengths)}; shorten it"
        )
    text = torch.cat([F.pad(states, (0, 0, 0, 1)) for states in pack.text.split(lengths)])
    pads = [TEXT_POSITIONS - n for n in lengths]
    return text, Boundaries.of([n + 1 for n in lengths], text.device, repeats=pads)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised x (N, width), scaled and shifted in float32, rounded to x's precision."""
    return (F.layer_norm(x.float(), x.shape[1:], eps=EPS) * (1 + scale) + shift).to(x.dtype)
