"""Diffusers' Wan, sample by sample, as the reference of ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel

from vitascope.feed.packs import Segment
from vitascope.feed.patches import patchify
from vitascope.model.settings import ModelSettings
from vitascope.model.wan import Wan


@dataclass(frozen=True)
class Layout:
    """The sizes of a network."""

    settings: ModelSettings
    channels: int
    text_dim: int

    def ours(self) -> Wan:
        """Our network with fresh weights."""
        return Wan(self.settings, self.channels, self.text_dim)

    def theirs(self) -> WanTransformer3DModel:
        """Diffusers' network; all of its parameters are random, so that no zero or one hides anything."""
        model = WanTransformer3DModel(
            num_attention_heads=self.settings.heads,
            attention_head_dim=self.settings.width // self.settings.heads,
            num_layers=self.settings.depth,
            ffn_dim=self.settings.hidden,
            in_channels=self.channels,
            out_channels=self.channels,
            text_dim=self.text_dim,
            patch_size=(1, self.settings.patch, self.settings.patch),
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    def pair(self) -> tuple[Wan, WanTransformer3DModel]:
        """Our network with the weights of theirs."""
        ours, theirs = self.ours(), self.theirs()
        ours.load_state_dict(theirs.state_dict())
        return ours, theirs


def layout(channels: int = 16, text_dim: int = 48, **settings: int) -> Layout:
    """A network of `wan`'s kind."""
    return Layout(ModelSettings(network="wan", **settings), channels, text_dim)


LAYOUTS = {
    "2.1": layout(depth=3, width=36, heads=3, ffn=80),
    "2.2 5B": layout(48, depth=2, width=80, heads=2, ffn=150),
    "2.2 A14B": layout(depth=2, width=256, heads=2, ffn=300, text_dim=64),
}
"""Heads of 12, 40 and 128 channels."""

Example = tuple[tuple[int, int, int], Sequence[float], int]
"""Grid, timesteps (one for all frames, or one each) and the number of text tokens."""

PACKS: list[list[Example]] = [
    [((1, 3, 5), [0.7], 7), ((1, 2, 2), [0.1], 0), ((1, 1, 1), [1.0], 512)],
    [((5, 2, 3), [0.9984], 20), ((3, 4, 2), [0.3], 1)],
    [((4, 2, 2), [0, 0.8, 0.8, 0.8], 9), ((1, 4, 6), [0.5], 3), ((2, 3, 3), [0.6, 0], 0)],
    [((3, 2, 2), [0, 0.25, 0], 511), ((3, 2, 4), [0.1, 0.5, 0.95], 77)],
    [((2, 1, 6), [0, 0], 5)],
]
"""Images, videos, timesteps per frame with zeros, no text, one token, and as many as there are positions."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A latent (T, h, w, C), timesteps (T,) and text states."""

    latent: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor
    patch: int

    @property
    def segment(self) -> Segment:
        """The sample in our packs."""
        frames, height, width, _ = self.latent.shape
        grid = (frames, height // self.patch, width // self.patch)
        return Segment(patchify(self.latent, self.patch), grid, self.timesteps, self.text)

    def through(self, model: WanTransformer3DModel) -> torch.Tensor:
        """Their velocities as tokens (n, D); with one timestep a token, unless all frames have the same."""
        grid, dtype = self.segment.grid, model.dtype
        levels = 1000 * self.timesteps
        per_token = levels.repeat_interleave(grid[1] * grid[2])[None]
        states = torch.nn.functional.pad(self.text, (0, 0, 0, 512 - len(self.text)))[None]
        out = model(
            self.latent.permute(3, 0, 1, 2)[None].to(dtype),
            levels[:1] if bool((levels == levels[0]).all()) else per_token,
            states.to(dtype),
        ).sample
        return patchify(out[0].permute(1, 2, 3, 0).float(), self.patch)


def samples(of: Layout, examples: Sequence[Example]) -> list[Sample]:
    """Random samples."""
    generator = torch.Generator().manual_seed(2)
    made, patch = [], of.settings.patch
    for (frames, rows, columns), levels, n_text in examples:
        latent = torch.randn(frames, rows * patch, columns * patch, of.channels, generator=generator)
        text = torch.randn(n_text, of.text_dim, generator=generator)
        timesteps = torch.tensor([*levels] if len(levels) == frames else [levels[0]] * frames)
        made.append(Sample(latent, timesteps.float(), text, patch))
    return made


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())
