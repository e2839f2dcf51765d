"""What holds for every network."""

from typing import get_args

import pytest
import torch

from vitascope.feed.packs import Segment, collate
from vitascope.model.networks import NETWORKS, build, shapes_of
from vitascope.model.settings import ModelSettings


def test_every_network_of_the_settings_is_declared() -> None:
    assert get_args(ModelSettings.model_fields["network"].annotation) == tuple(NETWORKS)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_every_token_a_velocity(network: str) -> None:
    settings = ModelSettings(network=network, depth=2, width=32, heads=2)
    model = build(settings, 3, 8)
    pack = collate([Segment(torch.randn(8, 12), (2, 2, 2), torch.rand(2), torch.randn(3, 8))])
    for dtype in (torch.float32, torch.bfloat16):
        velocities = model.to(dtype)(pack)
        assert (velocities.shape, velocities.dtype) == ((8, 12), torch.float32)
    velocities.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert shapes_of(settings, 3, 8) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_zero3_finds_every_leaf_and_a_gradient_at_its_inputs(network: str) -> None:
    """Without one, DeepSpeed reduces a leaf's gradients before they are computed."""
    model = build(ModelSettings(network=network, depth=2, width=32, heads=2), 3, 8)
    seen = []

    def look(module: torch.nn.Module, arguments: tuple[object, ...]) -> None:
        seen.append(type(module))
        assert any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments)

    leaves = [module for module in model.modules() if isinstance(module, type(model).leaves)]
    for leaf in leaves:
        leaf.register_forward_pre_hook(look)
    model(collate([Segment(torch.randn(8, 12), (2, 2, 2), torch.rand(2), torch.randn(3, 8))]))
    assert len(seen) == len(leaves)
    assert set(seen) == set(type(model).leaves)
