"""Low-rank adapters of linear layers (LoRA, Hu et al. 2021).

An adapted layer computes W x + scale · B A x. In training W is frozen and each layer has a child module with
A and B, so that all weights keep their names; ZeRO-3 divides and gathers both like any others.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitascope.errors import Mistake
from vitascope.feed.packs import Pack
from vitascope.model.network import Network, Rows
from vitascope.model.settings import LoraSettings
from vitascope.wording import short

CHILD = "lora"
"""The name of the child module that an adapted layer has in training."""


@dataclass(frozen=True, eq=False)
class Pair:
    """The adapter of one layer. down: A, (rank, in). up: B, (out, rank)."""

    down: Tensor
    up: Tensor
    scale: float

    def like(self, weight: Tensor) -> "Pair":
        """The pair in the number format and on the device of a layer's weight."""
        return Pair(self.down.to(weight), self.up.to(weight), self.scale)

    def of(self, x: Tensor) -> Tensor:
        """What the adapter adds to the layer's output, (…, out) of inputs (…, in)."""
        return F.linear(F.linear(x, self.down), self.up) * self.scale

    def weight(self) -> Tensor:
        """What the adapter adds to the layer's weight, (out, in) float32."""
        return self.scale * (self.up.float() @ self.down.float())


class LowRank(nn.Module):
    """The trainable adapter of one layer: it adds nothing before its first update, because B is zero."""

    def __init__(self, n_in: int, n_out: int, settings: LoraSettings) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(settings.rank, n_in))
        self.B = nn.Parameter(torch.zeros(n_out, settings.rank))
        self.scale, self.dropout = settings.scale, settings.dropout
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(…, out) of (…, in)."""
        return Pair(self.A, self.B, self.scale).of(F.dropout(x, self.dropout, self.training))


def attach(network: Network, settings: LoraSettings) -> None:
    """Freezes the network and gives the layers that `settings` names an adapter each.

    Raises:
        Mistake: a target names no layer.
    """
    network.requires_grad_(False)
    for _, layer in targets(network, settings):
        layer.add_module(CHILD, LowRank(layer.in_features, layer.out_features, settings))
        layer.register_forward_hook(_add)


def _add(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + layer.lora(inputs[0])


def linears(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear layer by name, in the network's order."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear))


def targets(network: Network, settings: LoraSettings) -> list[tuple[str, nn.Linear]]:
    """The layers to adapt: those whose names end with a target, whole parts between dots.

    Raises:
        Mistake: a target names no layer.
    """
    layers = list(linears(network))
    ends = settings.targets or network.adapted
    for end in ends:
        if not any(_ends_with(name, end) for name, _ in layers):
            names = sorted({re.sub(r"^blocks\.\d+\.", "", name) for name, _ in layers})
            raise Mistake(
                f"model.lora.targets names {short(end, 80)}, and no linear layer of this network ends so; it "
                f"has {', '.join(names)}"
            )
    return [(name, layer) for name, layer in layers if any(_ends_with(name, end) for end in ends)]


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def is_adapter(name: str) -> bool:
    """Whether a weight of this name belongs to an adapter in training."""
    return f".{CHILD}." in name


def pairs_of(weights: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Pair]:
    """The adapters by layer, of weights of a network in training."""
    layers = [name.removesuffix(f".{CHILD}.A") for name in weights if name.endswith(f".{CHILD}.A")]
    return {
        layer: Pair(weights[f"{layer}.{CHILD}.A"], weights[f"{layer}.{CHILD}.B"], settings.scale)
        for layer in layers
    }


@dataclass(frozen=True)
class Merged(Mapping[str, Tensor]):
    """Weights with adapters added to them, float32 if adapted, computed when they are looked up."""

    base: Mapping[str, Tensor]
    pairs: Mapping[str, Pair]

    def __getitem__(self, name: str) -> Tensor:
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in self.pairs:
            return self.base[name]
        return self.base[name].float() + self.pairs[layer].weight()

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


@dataclass(frozen=True)
class Use:
    """An adapter that a segment of a pass uses, by name, and the factor of its output."""

    name: str
    weight: float


class PerSegment:
    """Gives each segment of a pass its own adapter, or none.

    The result for a segment is that of a network with the adapter merged, whatever the other segments use.
    For inference; passes of one network are computed one after another.
    """

    def __init__(self, network: Network, adapters: Mapping[str, Mapping[str, Pair]]) -> None:
        """`adapters` are pairs by layer, by the adapters' names; they get the network's number format."""
        self._spans: dict[Rows, list[tuple[slice, Use]]] = {}
        layers = dict(linears(network))
        self._pairs = {
            use: {layer: pair.like(layers[layer].weight) for layer, pair in pairs.items()}
            for use, pairs in adapters.items()
        }
        for layer in {layer for pairs in adapters.values() for layer in pairs}:
            layers[layer].register_forward_hook(self._adding(layer, network.rows(layer)))

    @contextmanager
    def using(self, pack: Pack, uses: Sequence[Use | None]) -> Iterator[None]:
        """For a pass of `pack` within the block, what each of its segments uses."""
        counts = {
            Rows.TOKENS: pack.lengths,
            Rows.FRAMES: pack.grids[:, 0].tolist(),
            Rows.TEXT: pack.text_lengths.tolist(),
            Rows.TEXT_AND_ONE: (pack.text_lengths + 1).tolist(),
        }
        self._spans = {rows: list(_spans(lengths, uses)) for rows, lengths in counts.items()}
        try:
            yield
        finally:
            self._spans = {}

    def _adding(self, layer: str, rows: Rows) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            for span, use in self._spans.get(rows, ()):
                if pair := self._pairs[use.name].get(layer):
                    output[span] += use.weight * pair.of(inputs[0][span])

        return add


def _spans(lengths: Sequence[int], uses: Sequence[Use | None]) -> Iterator[tuple[slice, Use]]:
    stops = accumulate(lengths)
    for length, stop, use in zip(lengths, stops, uses, strict=True):
        if use:
            yield slice(stop - length, stop), use
