"""Each segment of a pass uses its own adapter, or none."""

import pytest
import torch
from torch import Tensor

from model.wan_reference import PACKS, layout
from vitascope.feed.packs import Segment, collate
from vitascope.feed.patches import patchify
from vitascope.model.lora import Merged, Pair, PerSegment, Use, linears
from vitascope.model.network import Network
from vitascope.model.networks import build
from vitascope.model.settings import ModelSettings

CHANNELS, TEXT_DIM = 16, 48
NETWORKS = {
    "wan": layout(CHANNELS, TEXT_DIM, depth=2, width=36, heads=3, ffn=80).settings,
    "dit": ModelSettings(depth=2, width=32, heads=2),
}
USES = [Use("one", 1.0), None, Use("two", 0.5), Use("one", -0.7), None]


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("others", [False, True], ids=["blocks", "all other layers"])
def test_a_segments_result_is_that_of_merged_weights(settings: ModelSettings, others: bool) -> None:
    torch.manual_seed(0)
    network = build(settings, CHANNELS, TEXT_DIM).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    base = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    adapters = {name: pairs(network, number, others=others) for number, name in enumerate(("one", "two"))}
    segments = some_segments(settings.patch)
    expected = [
        alone(settings, Merged(base, scaled(adapters[use.name], use.weight)) if use else base, segment)
        for segment, use in zip(segments, USES, strict=True)
    ]
    plain = [alone(settings, base, segment) for segment in segments]
    per_segment, pack = PerSegment(network, adapters), collate(segments)
    with torch.inference_mode():
        with per_segment.using(pack, USES):
            found = pack.split(network(pack))
        after = pack.split(network(pack))
    for got, merged, without, use, later in zip(found, expected, plain, USES, after, strict=True):
        scale = merged.abs().max()
        assert (got - merged).abs().max() < 1e-5 * scale
        assert ((without - merged).abs().max() > 1e-2 * scale) == bool(use)
        assert (later - without).abs().max() < 1e-5 * scale


def pairs(network: Network, seed: int, *, others: bool) -> dict[str, Pair]:
    """Random adapters of the layers in the blocks, or of those outside."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Pair(
            torch.randn(3, layer.in_features, generator=generator) / layer.in_features**0.5,
            torch.randn(layer.out_features, 3, generator=generator) / 3**0.5,
            0.8,
        )
        for name, layer in linears(network)
        if others != name.startswith("blocks.")
    }


def scaled(adapter: dict[str, Pair], weight: float) -> dict[str, Pair]:
    return {name: Pair(pair.down, pair.up, pair.scale * weight) for name, pair in adapter.items()}


def some_segments(patch: int) -> list[Segment]:
    """Images and videos, with and without text."""
    generator = torch.Generator().manual_seed(1)
    examples = [example for pack in PACKS[:2] for example in pack]
    made = []
    for (frames, rows, columns), levels, n_text in examples:
        latent = torch.randn(frames, rows * patch, columns * patch, CHANNELS, generator=generator)
        timesteps = torch.tensor(levels).expand(frames).clone()
        text = torch.randn(n_text, TEXT_DIM, generator=generator)
        made.append(Segment(patchify(latent, patch), (frames, rows, columns), timesteps, text))
    return made


def alone(settings: ModelSettings, weights: dict[str, Tensor] | Merged, segment: Segment) -> Tensor:
    network = build(settings, CHANNELS, TEXT_DIM).eval()
    network.load_state_dict(dict(weights))
    with torch.inference_mode():
        return network(collate([segment]))
