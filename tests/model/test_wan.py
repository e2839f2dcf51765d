"""Wan's transformer on packs is Diffusers' on each sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from model.wan_reference import LAYOUTS, PACKS, Example, Layout, layout, relative, samples
from vitascope.feed.packs import Pack, Segment, collate, idle
from vitascope.model.attention import Boundaries, attention, laid_out
from vitascope.model.networks import build, filled
from vitascope.model.settings import ModelSettings
from vitascope.model.wan import Wan, axis_channels

EXACT = 3e-6
"""Sums in another order, in float32, some layers deep."""
CANCELLED = 2e-6
"""Of the largest gradient: attention to equal pads hardly depends on queries and keys, so that their
gradients are sums of large terms that cancel to a thousandth."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These shapes are too small for several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def checkpointed(model: Wan) -> Iterator[None]:
    """Within, the model recomputes its blocks in the backward pass."""
    model.activation_checkpointing = True
    yield
    model.activation_checkpointing = False


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("examples", PACKS)
def test_velocities_and_all_gradients_are_those_of_diffusers(of: Layout, examples: list[Example]) -> None:
    ours, theirs = of.pair()
    drawn = samples(of, examples)
    found = ours(collate([sample.segment for sample in drawn]))
    expected = torch.cat([sample.through(theirs) for sample in drawn])
    assert found.dtype == torch.float32
    assert relative(found, expected) < EXACT
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    found.backward(upstream)
    expected.backward(upstream)
    theirs_by_name = {name: whole(p) for name, p in theirs.named_parameters()}
    largest = max(float(gradient.abs().max()) for gradient in theirs_by_name.values())
    for name, parameter in ours.named_parameters():
        expected = theirs_by_name[name]
        difference = float((whole(parameter) - expected).abs().max())
        assert difference < EXACT * float(expected.abs().max()) + CANCELLED * largest, name


def whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """The gradient of a parameter, which has one that is not zero."""
    assert parameter.grad is not None
    assert parameter.grad.any()
    return parameter.grad


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
def test_names_order_and_shapes_are_those_of_diffusers(of: Layout) -> None:
    ours = {name: tensor.shape for name, tensor in of.ours().state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in of.theirs().state_dict().items()}
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
def test_it_computes_in_bfloat16_what_diffusers_does(of: Layout) -> None:
    ours, theirs = of.pair()
    drawn = samples(of, PACKS[2])
    exact = torch.cat([sample.through(theirs) for sample in drawn]).detach()
    found = ours.bfloat16()(collate([sample.segment for sample in drawn]))
    theirs = theirs.bfloat16()
    expected = torch.cat([sample.through(theirs) for sample in drawn])
    assert found.dtype == torch.float32
    found.square().mean().backward()
    assert all(whole(p).isfinite().all() for p in ours.parameters())
    error, error_of_theirs = relative(found, exact), relative(expected, exact)
    assert error < max(1.5 * error_of_theirs, 0.02)


@pytest.mark.parametrize("of", LAYOUTS.values(), ids=LAYOUTS)
def test_loaded_in_bfloat16_it_is_as_exact_as_diffusers_is(of: Layout, tmp_path: Path) -> None:
    """Diffusers keeps the same modules in float32."""
    theirs = of.theirs()
    drawn = samples(of, [example for examples in PACKS[:4] for example in examples])
    exact = torch.cat([sample.through(theirs) for sample in drawn]).detach()
    theirs.save_pretrained(tmp_path)
    loaded = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    sizes, weights = (of.settings, (of.channels, of.text_dim)), theirs.state_dict().items()
    ours = filled(*sizes, weights, torch.device("cpu"), dtype=torch.bfloat16)
    in_float32 = {name for name, weight in ours.named_parameters() if weight.dtype == torch.float32}
    assert in_float32 == {n for n, weight in loaded.named_parameters() if weight.dtype == torch.float32}
    with torch.no_grad():
        found = ours(collate([sample.segment for sample in drawn]))
        expected = torch.cat([sample.through(loaded) for sample in drawn])
    error, error_of_theirs = ((x - exact).square().mean() for x in (found, expected))
    assert error < 1.1 * error_of_theirs


def test_a_timestep_next_to_noise_is_not_rounded_to_it_in_bfloat16() -> None:
    ours = LAYOUTS["2.1"].pair()[0].bfloat16()
    almost, noise = (samples(LAYOUTS["2.1"], [((1, 2, 2), [t], 3)])[0].segment for t in (0.9984, 1.0))
    assert (ours(collate([almost])) - ours(collate([noise]))).abs().max() > 0.05


def test_activation_checkpointing_changes_no_gradient() -> None:
    of = LAYOUTS["2.1"]
    ours, _ = of.pair()
    pack = collate([sample.segment for sample in samples(of, PACKS[2])])
    ours(pack).square().sum().backward()
    plain = {name: whole(p).clone() for name, p in ours.named_parameters()}
    ours.zero_grad()
    with checkpointed(ours):
        ours(pack).square().sum().backward()
    assert all(torch.equal(whole(p), plain[name]) for name, p in ours.named_parameters())


def test_a_rank_without_a_pack_has_a_gradient_for_every_parameter() -> None:
    of = LAYOUTS["2.1"]
    ours, _ = of.pair()
    ours(idle(of.channels * 4, of.text_dim)).sum().backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_fresh_weights_predict_zero_and_are_of_the_seed() -> None:
    of = layout(depth=1, width=32, heads=2)
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(of.ours())
    assert all(map(torch.equal, made[0].state_dict().values(), made[1].state_dict().values()))
    pack = collate([sample.segment for sample in samples(of, PACKS[0])])
    assert not made[0](pack).any()


def test_more_text_than_positions_is_refused() -> None:
    of = layout(depth=1, width=32, heads=2)
    with pytest.raises(ValueError, match="wan takes texts of up to 512 tokens, got one of 513; shorten it"):
        of.ours()(collate([sample.segment for sample in samples(of, [((1, 1, 1), [0.5], 513)])]))


def test_a_patch_of_another_side() -> None:
    for patch in (1, 3):
        of = layout(depth=1, width=36, heads=3, patch=patch)
        ours, theirs = of.pair()
        (sample,) = samples(of, [((2, 2, 3), [0.4, 0], 6)])
        assert relative(ours(collate([sample.segment])), sample.through(theirs)) < EXACT


@pytest.mark.parametrize(("width", "heads"), [(36, 3), (64, 8), (12 * 128, 12), (42, 7), (40, 1)])
def test_every_axis_has_an_even_number_of_channels(width: int, heads: int) -> None:
    ModelSettings(network="wan", width=width, heads=heads)
    axes = axis_channels(width // heads)
    assert sum(axes) == width // heads
    assert all(n >= 2 and n % 2 == 0 for n in axes)


@pytest.mark.parametrize(("width", "heads"), [(32, 8), (33, 3), (35, 5), (50, 4)])
def test_heads_that_cannot_turn_with_three_axes_are_refused(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=rf"must be even and 6 or more .* got {width} / {heads}"):
        ModelSettings(network="wan", width=width, heads=heads)


@pytest.mark.parametrize("network", ["dit", "wan"])
def test_the_hidden_width_is_a_setting_of_both_networks(network: str) -> None:
    sizes = []
    for ffn in (None, 96):
        settings = ModelSettings(network=network, depth=1, width=32, heads=2, ffn=ffn)
        sizes.append(sum(p.numel() for p in build(settings, 4, 8).parameters()))
        assert settings.hidden == (ffn or 128)
    assert sizes[0] - sizes[1] == 32 * (2 * 32 + 1)


def attend(repeats: list[int], *, one_for_all: bool) -> list[torch.Tensor]:
    """Attention's output and the gradients of q, k, v, if keys count often or are laid out as often."""
    generator = torch.Generator().manual_seed(0)
    device, queries, lengths = torch.device("cpu"), [5, 1, 4], [3, 1, 2]
    q, k, v = (
        torch.randn(sum(n), 2, 8, generator=generator, requires_grad=True)
        for n in (queries, lengths, lengths)
    )
    keys, values, of_keys = k, v, Boundaries.of(lengths, device, repeats)
    if not one_for_all:
        keys, values = laid_out(k, of_keys), laid_out(v, of_keys)
        of_keys = Boundaries.of(of_keys.offsets.diff().tolist(), device)
        assert len(keys) == sum(of_keys.lengths) == sum(lengths) - 3 + sum(repeats)
    out = attention(q, keys, values, (Boundaries.of(queries, device), of_keys))
    out.square().sum().backward()
    return [out, *(x.grad for x in (q, k, v) if x.grad is not None)]


@pytest.mark.parametrize("repeats", [[1, 1, 1], [7, 512, 2], [0, 3, 0]])
def test_a_key_that_counts_often_is_that_many_keys(repeats: list[int]) -> None:
    both = attend(repeats, one_for_all=True), attend(repeats, one_for_all=False)
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nothing_leaks_into_another_segment() -> None:
    of = LAYOUTS["2.2 5B"]
    ours, _ = of.pair()
    first, second = (
        sample.segment for sample in samples(of, [((2, 2, 2), [0.3, 0], 4), ((1, 2, 3), [0.8], 9)])
    )
    other = Segment(second.tokens + 1, second.grid, second.timesteps / 2, second.text - 1)
    one, two = (ours(Pack(**collate([first, x]).tensors())) for x in (second, other))
    assert torch.equal(one[:8], two[:8])
    assert (one[8:] - two[8:]).abs().max() > 0.1
